import { count } from "../format";
import { type Message as MessageData, type Prefill, isLive } from "../turns";
import { words } from "../words";
import { MessageText } from "./MessageText";
import { Parts } from "./Parts";
import { TurnBadge } from "./TurnBadge";
import { useChat } from "./context";

export function Message({ message }: { message: MessageData }) {
  const name = message.role === "user" ? words.you : message.role === "assistant" ? words.assistant : words.system;
  return (
    <li class={`message message-${message.role} is-${message.state}`}>
      <h2 class="unseen">{name}</h2>
      {message.text !== "" && <MessageText text={message.text} />}
      {message.role === "assistant" ? <AnswerFoot message={message} /> : <UserFoot message={message} />}
    </li>
  );
}

function UserFoot({ message }: { message: MessageData }) {
  const chat = useChat();
  if (message.state !== "refused") return null;
  return (
    <div class="message-note note-error" role="alert">
      <span>{words.refused(message.error ?? "")}</span>
      <button type="button" class="text-button" onClick={() => chat.retake(message.key, message.text, "send")}>
        {words.retry}
      </button>
      <button type="button" class="text-button" onClick={() => chat.retake(message.key, message.text, "edit")}>
        {words.edit}
      </button>
    </div>
  );
}

function AnswerFoot({ message }: { message: MessageData }) {
  return (
    <>
      {isLive(message) && <Progress message={message} />}
      <EndNote message={message} />
      {message.receipt !== null && <TurnBadge receipt={message.receipt} />}
    </>
  );
}

/** How a finished answer ended, when it did not end by itself. */
function EndNote({ message }: { message: MessageData }) {
  const notes: Record<string, string> = words.states;
  const note = message.error === null ? notes[message.state] : words.failedWith(message.error);
  if (note === undefined) return null;
  return <p class={`message-note note-${message.state}`}>{note}</p>;
}

function prefillParts({ done, total, cached }: Prefill): string[] {
  const read = words.prefill(count(done), count(total));
  return cached > 0 ? [read, words.prefillCached(count(cached))] : [read];
}

/** What is going on while there is no text to watch. */
function Progress({ message }: { message: MessageData }) {
  if (message.state === "lost") return <p class="message-note note-lost">{words.lost}</p>;
  const { prefill } = message;
  if (prefill !== null) {
    return (
      <div class="prefill">
        <progress class="prefill-bar" value={prefill.done} max={prefill.total} aria-label={words.prefillLabel} />
        <Parts of={prefillParts(prefill)} between=", " />
      </div>
    );
  }
  if (message.text !== "") return null;
  return (
    <p class="working">
      <span class="working-dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      <span>{message.state === "sending" ? words.sending : words.thinking}</span>
    </p>
  );
}
