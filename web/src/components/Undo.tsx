import { useEffect, useRef } from "preact/hooks";
import { titleOf } from "../store";
import { words } from "../words";
import { useChat } from "./context";
import { refocus, rowButton } from "./refocus";

/** While a deleted chat can still be had back. */
export function Undo() {
  const chat = useChat();
  const session = chat.store.doomed.value;
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (session === null) return;
    button.current?.focus({ preventScroll: true }); // its row, and with it the focus, is gone
    return () => refocus(rowButton(session.id), ".session-more", ".new-chat");
  }, [session]);
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
