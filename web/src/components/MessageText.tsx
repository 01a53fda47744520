import type { Role } from "../wire";
import { Markdown } from "./Markdown";
import { isFull } from "./fit";

interface MessageTextProps {
  role: Role;
  text: string;
  live: boolean;
}

/** The one place where a message's text becomes elements. What a person wrote stands as they wrote it. */
export function MessageText({ role, text, live }: MessageTextProps) {
  if (role === "assistant") return <Markdown text={text} live={live} />;
  return (
    <div class="message-text" dir={isFull(text) ? undefined : "auto"}>
      {text}
    </div>
  );
}
