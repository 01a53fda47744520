import { useLayoutEffect, useRef } from "preact/hooks";
import type { Message } from "../turns";
import { words } from "../words";
import { useChat } from "./context";
import { fit, isFull } from "./fit";
import { useRoom } from "./room";

/** A message said otherwise goes on a branch; Enter sends it, Esc leaves all as it was. */
export function EditMessage({ message, onDone }: { message: Message; onDone: () => void }) {
  const chat = useChat();
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    fit(field.current);
    field.current?.focus();
  }, []);
  const send = async () => {
    const text = field.current?.value ?? "";
    if (text.trim() === "") return;
    if (text === message.text || (await chat.branch(message.key, text))) onDone(); // else it stays, to be sent again
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Escape") {
      event.preventDefault();
      onDone();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      void send();
    }
  };
  return (
    <div class="edit">
      <textarea
        ref={field}
        rows={1}
        dir={isFull(message.text) ? undefined : "auto"}
        aria-label={words.editMessage}
        defaultValue={message.text}
        onBeforeInput={useRoom()}
        onInput={(event) => fit(event.currentTarget)}
        onKeyDown={onKeyDown}
      />
      <div class="edit-answers">
        <button type="button" class="button" onClick={onDone}>
          {words.cancel}
        </button>
        <button type="button" class="button button-main" disabled={!chat.ready} onClick={() => void send()}>
          {words.saveEdit}
        </button>
      </div>
    </div>
  );
}
