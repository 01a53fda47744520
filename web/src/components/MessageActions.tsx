import { useState } from "preact/hooks";
import { copy } from "../copying";
import type { Message, MessageState } from "../turns";
import { words } from "../words";
import { Icon } from "./Icon";
import { Versions } from "./Versions";
import { useChat } from "./context";

const COPIED = 1_500;
/** Answers that did not come to their end. */
const SHORT: ReadonlySet<MessageState> = new Set<MessageState>(["cancelled", "incomplete", "interrupted", "failed", "unfinished"]);

interface MessageActionsProps {
  message: Message;
  index: number;
  last: boolean;
  onEdit: () => void;
}

/** What can be done with a message that stands. */
export function MessageActions({ message, index, last, onEdit }: MessageActionsProps) {
  const chat = useChat();
  const { role } = message;
  return (
    <div class="actions">
      <Versions index={index} />
      {message.text !== "" && <CopyButton text={message.text} />}
      {role === "user" && (
        <button type="button" class="icon-button" aria-label={words.editMessage} title={words.edit} disabled={!chat.ready} onClick={onEdit}>
          <Icon name="pencil" />
        </button>
      )}
      {(role === "assistant" || (role === "user" && last)) && ( // one that was stopped before a word of it is stored nowhere
        <button
          type="button"
          class="icon-button"
          aria-label={words.regenerate}
          title={words.regenerate}
          disabled={!chat.ready}
          onClick={() => void chat.branch(message.key, null)}
        >
          <Icon name="again" />
        </button>
      )}
      {role === "assistant" && last && message.text !== "" && SHORT.has(message.state) && (
        <button type="button" class="text-button" disabled={!chat.ready} onClick={() => void chat.send(words.goOnText)}>
          {words.goOn}
        </button>
      )}
    </div>
  );
}

function CopyButton({ text }: { text: string }) {
  const [done, setDone] = useState(false);
  const onClick = async () => {
    if (!(await copy(text))) return;
    setDone(true);
    setTimeout(() => setDone(false), COPIED);
  };
  return (
    <button type="button" class="icon-button" aria-label={done ? words.copied : words.copy} title={words.copy} onClick={() => void onClick()}>
      <Icon name={done ? "check" : "copy"} />
    </button>
  );
}
