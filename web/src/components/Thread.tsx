import { useMemo, useRef } from "preact/hooks";
import type { Message as MessageData, Thread as ThreadData } from "../turns";
import { words } from "../words";
import { Icon } from "./Icon";
import { Message } from "./Message";
import { useStickToEnd } from "./stick";

export function Thread({ thread }: { thread: ThreadData }) {
  const scroller = useRef<HTMLDivElement>(null);
  const { atEnd, toEnd } = useStickToEnd(scroller, thread.messages);
  return (
    <section class="thread" aria-label={words.conversation}>
      <div class="thread-scroll" ref={scroller} tabIndex={0} role="group" aria-label={words.conversation}>
        <ol class="thread-list">
          {thread.messages.map((message) => (
            <Slot key={message.key} message={message} />
          ))}
        </ol>
      </div>
      {!atEnd && (
        <button type="button" class="to-end" aria-label={words.toLatest} onClick={toEnd}>
          <Icon name="down" />
        </button>
      )}
    </section>
  );
}

/** Returns the same element while the message is the same, so that a long thread costs nothing per token but its last message. */
function Slot({ message }: { message: MessageData }) {
  return useMemo(() => <Message message={message} />, [message]);
}
