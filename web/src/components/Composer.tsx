import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";
import { fit, isFull } from "./fit";
import { pointsFinely } from "./refocus";
import { useRoom } from "./room";

export function Composer() {
  const chat = useChat();
  const { store } = chat;
  const field = useRef<HTMLTextAreaElement>(null);
  const { draft, busy, stopping, currentId } = store;
  useLayoutEffect(() => fit(field.current), [draft.value]);
  useFocus(field, currentId.value);

  const send = () => void chat.send(draft.peek());
  const stop = () => {
    chat.stop();
    if (pointsFinely()) field.current?.focus(); // the button takes no more, and loses it
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes (Chinese, Japanese, ...) Enter accepts a candidate; keyCode 229 is how Safari says so.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div class="composer-box">
        <label class="unseen" for="message">
          {words.message}
        </label>
        <textarea
          id="message"
          ref={field}
          rows={1}
          dir={isFull(draft.value) ? undefined : "auto"}
          placeholder={words.placeholder}
          aria-describedby="keys"
          enterkeyhint="send"
          value={draft.value}
          onBeforeInput={useRoom()}
          onInput={(event) => chat.write(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {!busy.value ? (
          <button type="submit" class="send" aria-label={words.send} title={words.send} disabled={!chat.ready || draft.value.trim() === ""}>
            <Icon name="up" />
          </button>
        ) : (
          <button type="button" class="stop" disabled={stopping.value} onClick={stop}>
            <span class="stop-square" aria-hidden="true" />
            {stopping.value ? words.stopping : words.stop}
          </button>
        )}
      </div>
      <p class="composer-keys" id="keys">
        {busy.value ? words.stopKeys : words.keys}
      </p>
    </form>
  );
}

/** Opening a chat puts the cursor in the field, except on touch, where it would raise the keyboard unasked, and where it was just deleted. */
function useFocus(field: { current: HTMLTextAreaElement | null }, id: string | null): void {
  useEffect(() => {
    if (pointsFinely() && document.activeElement?.closest(".toast") == null) field.current?.focus();
  }, [field, id]);
}
