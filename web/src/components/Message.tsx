import { useState } from "preact/hooks";
import { type Message as MessageData, isLive } from "../turns";
import { words } from "../words";
import { AnswerFoot } from "./AnswerFoot";
import { CallCard } from "./CallCard";
import { EditMessage } from "./EditMessage";
import { MessageActions } from "./MessageActions";
import { MessageText } from "./MessageText";
import { Thoughts } from "./Thoughts";
import { useChat } from "./context";
import { pointsFinely, refocus } from "./refocus";

interface MessageProps {
  message: MessageData;
  /** Its place among the conversation's messages. */
  index?: number;
  last?: boolean;
}

export function Message({ message, index = 0, last = true }: MessageProps) {
  const { role, state, text } = message;
  const chat = useChat();
  const [editing, setEditing] = useState<"kept" | boolean>(() => role === "user" && state !== "refused" && chat.edited(index) !== null && "kept");
  const name = role === "user" ? words.you : role === "assistant" ? words.assistant : words.system;
  const live = isLive(message);
  return (
    <li class={`message message-${role} is-${state}${last ? " is-last" : ""}`} data-key={message.key}>
      <h2 class="unseen">{name}</h2>
      {message.thoughts !== "" && <Thoughts text={message.thoughts} live={live && text === ""} />}
      {editing ? (
        <EditMessage message={message} index={index} asked={editing === true} onDone={() => setEditing(false)} />
      ) : (
        text !== "" && <MessageText role={role} text={text} live={live} />
      )}
      {message.calls.map((call) => (
        <CallCard key={call.id} call={call} />
      ))}
      {role === "assistant" ? <AnswerFoot message={message} /> : <RefusedNote message={message} />}
      {!live && state !== "refused" && !editing && (
        <MessageActions message={message} index={index} last={last} onEdit={() => setEditing(true)} />
      )}
    </li>
  );
}

function RefusedNote({ message }: { message: MessageData }) {
  const chat = useChat();
  if (message.state !== "refused") return null;
  const retake = (then: "send" | "edit") => {
    chat.retake(message.key, message.text, then);
    if (then === "edit" || pointsFinely()) refocus("#message");
  };
  return (
    <div class="message-note note-error" role="alert">
      <span>{words.refused(message.error ?? "")}</span>
      <button type="button" class="text-button" disabled={!chat.ready} onClick={() => retake("send")}>
        {words.retry}
      </button>
      <button type="button" class="text-button" onClick={() => retake("edit")}>
        {words.edit}
      </button>
    </div>
  );
}
