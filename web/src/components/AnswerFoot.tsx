import { count, paceParts } from "../format";
import { type Message as MessageData, type Prefill, isLive } from "../turns";
import { words } from "../words";
import { Parts } from "./Parts";
import { TurnBadge } from "./TurnBadge";

export function AnswerFoot({ message }: { message: MessageData }) {
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

/** What is going on while there is no text to watch, and how fast it comes when there is. */
function Progress({ message }: { message: MessageData }) {
  if (message.state === "lost") return <p class="message-note note-lost">{words.lost}</p>;
  const { prefill, pace } = message;
  if (prefill !== null) {
    return (
      <div class="prefill">
        <progress class="prefill-bar" value={prefill.done} max={prefill.total} aria-label={words.prefillLabel} />
        <Parts of={prefillParts(prefill)} between={words.comma} />
      </div>
    );
  }
  if (pace !== null && pace.first !== null) {
    return (
      <p class="pace">
        <Parts of={paceParts(pace)} between=" · " />
      </p>
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
