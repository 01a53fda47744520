import { useMemo, useRef } from "preact/hooks";
import { type Message as MessageData, type Thread as ThreadData, placesOf } from "../turns";
import { words } from "../words";
import { Icon } from "./Icon";
import { Message } from "./Message";
import { useRising } from "./rising";
import { useStickToEnd } from "./stick";
import { GAP, useWindow } from "./windowing";

/** Characters that a message without any costs as much as. */
const LEAST = 200;

export function Thread({ thread }: { thread: ThreadData }) {
  const scroller = useRef<HTMLDivElement>(null);
  const { messages } = thread;
  const { atEnd, toEnd } = useStickToEnd(scroller, thread.id, messages);
  const names = messages.map((message) => message.key).join(" ");
  const keys = useMemo(() => names.split(" "), [names]);
  const { from, to, above, below } = useWindow(scroller, keys);
  const risen = useRising(messages.map((message) => message.text.length + LEAST));
  const places = placesOf(messages);
  const first = above + below > 0 ? from : Math.max(from, risen); // of a history that is not drawn whole there is little to draw
  return (
    <section class="thread" aria-label={words.conversation}>
      <div class="thread-scroll" ref={scroller} tabIndex={0} role="group" aria-label={words.conversation}>
        <ol class="thread-list">
          {above > 0 && <Room height={above} />}
          {messages.slice(first, to).map((message, place) => (
            <Slot key={message.key} message={message} index={places[first + place] ?? 0} last={first + place === messages.length - 1} />
          ))}
          {below > 0 && <Room height={below} />}
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

interface SlotProps {
  message: MessageData;
  index: number;
  last: boolean;
}

/** Returns the same element while the message is the same, so that a long thread costs nothing per token but its last message. */
function Slot({ message, index, last }: SlotProps) {
  return useMemo(() => <Message message={message} index={index} last={last} />, [message, index, last]);
}

/** Stands for messages that are not drawn. */
function Room({ height }: { height: number }) {
  return <li class="room" aria-hidden="true" style={{ height: `${height - GAP}px` }} />;
}
