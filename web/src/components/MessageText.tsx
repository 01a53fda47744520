import { useState } from "preact/hooks";
import { count } from "../format";
import type { Role } from "../wire";
import { words } from "../words";
import { Markdown } from "./Markdown";
import { isFull, startOf } from "./fit";

interface MessageTextProps {
  role: Role;
  text: string;
  live: boolean;
}

/** The one place where a message's text becomes elements. What a person wrote stands as they wrote it. */
export function MessageText({ role, text, live }: MessageTextProps) {
  return role === "assistant" ? <Markdown text={text} live={live} /> : <Written text={text} />;
}

/** Of a huge text the start, until somebody wants all of it: that takes the browser a second. */
function Written({ text }: { text: string }) {
  const [whole, setWhole] = useState(false);
  const shown = whole ? text : startOf(text);
  return (
    <>
      <div class="message-text" dir={isFull(text) ? undefined : "auto"}>
        {shown}
        {shown !== text && "…"}
      </div>
      {shown !== text && (
        <button type="button" class="text-button message-whole" onClick={() => setWhole(true)}>
          {words.showAll(count(text.length))}
        </button>
      )}
    </>
  );
}
