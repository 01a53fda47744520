/** Chats as files: JSON as the server exports it, or Markdown with a heading for whoever speaks. */
import type { AnyItem, Export, Role } from "./wire";

export interface ReadChat {
  title: string;
  items: AnyItem[];
}

const ROLES: Record<string, Role> = { user: "user", assistant: "assistant", system: "system", developer: "developer" };

/** What a file holds, or null when it is none of ours. */
export function readFile(text: string): ReadChat | null {
  return text.trimStart().startsWith("{") ? readJson(text) : readMarkdown(text);
}

function readJson(text: string): ReadChat | null {
  try {
    const { object, conversation, items } = JSON.parse(text) as Partial<Export>;
    if (object !== "conversation.export" || !Array.isArray(items)) return null;
    return { title: conversation?.chatpager?.title ?? "", items };
  } catch {
    return null;
  }
}

function readMarkdown(text: string): ReadChat | null {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const title = /^# (.+)$/.exec(lines[0] ?? "")?.[1] ?? "";
  const said: { role: Role; lines: string[] }[] = [];
  for (const line of lines.slice(title === "" ? 0 : 1)) {
    const role = ROLES[/^## (\w+)$/.exec(line)?.[1]?.toLowerCase() ?? ""];
    if (role !== undefined) said.push({ role, lines: [] });
    else said.at(-1)?.lines.push(line);
  }
  if (said.length === 0) return null;
  return { title, items: said.map(({ role, lines }, place) => messageItem(`msg_${place}`, role, lines.join("\n").trim())) };
}

function messageItem(id: string, role: Role, text: string): AnyItem {
  const type = role === "assistant" ? "output_text" : "input_text";
  return { id, type: "message", role, status: "completed", content: [{ type, text }] };
}
