import { useLayoutEffect, useRef } from "preact/hooks";
import type { Message } from "../turns";
import { words } from "../words";
import { useChat } from "./context";
import { fit, isFull } from "./fit";
import { useRoom } from "./room";

interface EditProps {
  message: Message;
  /** Its place among the conversation's messages. */
  index: number;
  /** Somebody has just asked for it; else it was being written before, and the focus is not its. */
  asked: boolean;
  onDone: () => void;
}

/** A message said otherwise goes on a branch; Enter sends it, Esc leaves all as it was. */
export function EditMessage({ message, index, asked, onDone }: EditProps) {
  const chat = useChat();
  const id = useRef(chat.store.currentId.peek() ?? "").current;
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    fit(field.current);
    if (asked) field.current?.focus();
  }, []);
  const done = () => {
    chat.edit(id, index, null);
    onDone();
  };
  const onInput = (area: HTMLTextAreaElement) => {
    fit(area);
    chat.edit(id, index, area.value === message.text ? null : area.value);
  };
  const send = async () => {
    const text = field.current?.value ?? "";
    if (text.trim() === "") return;
    if (text === message.text || (await chat.branch(message.key, text))) done(); // else it stays, to be sent again
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Escape") {
      event.preventDefault();
      done();
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
        defaultValue={chat.edited(index) ?? message.text}
        onBeforeInput={useRoom()}
        onInput={(event) => onInput(event.currentTarget)}
        onKeyDown={onKeyDown}
      />
      <div class="edit-answers">
        <button type="button" class="button" onClick={done}>
          {words.cancel}
        </button>
        <button type="button" class="button button-main" disabled={!chat.ready} onClick={() => void send()}>
          {words.saveEdit}
        </button>
      </div>
    </div>
  );
}
