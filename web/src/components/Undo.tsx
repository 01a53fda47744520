import { useEffect, useRef } from "preact/hooks";
import { titleOf } from "../store";
import { words } from "../words";
import { useChat } from "./context";

/** While a deleted chat can still be had back. */
export function Undo() {
  const chat = useChat();
  const session = chat.store.doomed.value;
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => button.current?.focus({ preventScroll: true }), [session]); // its row, and with it the focus, is gone
  return (
    <div class="toast-place" role="status">
      {session !== null && (
        <div class="toast">
          <span class="toast-text">{words.removed(titleOf(session))}</span>
          <button type="button" ref={button} class="text-button" onClick={() => chat.deleting.undo()}>
            {words.undo}
          </button>
        </div>
      )}
    </div>
  );
}
