import { useComputed } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { routeOf } from "../route";
import { titleOf } from "../store";
import type { Conversation } from "../wire";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

export function SessionRow({ session, onDelete }: { session: Conversation; onDelete: () => void }) {
  const { store } = useChat();
  const [renaming, setRenaming] = useState(false);
  const pencil = useRef<HTMLButtonElement>(null);
  const title = titleOf(session);
  const current = useComputed(() => store.currentId.value === session.id).value;
  const running = useComputed(() => store.running.value.has(session.id)).value; // changes seldom, the set with every token
  const renamed = (byKeyboard: boolean) => {
    setRenaming(false);
    if (byKeyboard) requestAnimationFrame(() => pencil.current?.focus());
  };
  if (renaming) {
    return (
      <li class="session">
        <RenameField session={session} onDone={renamed} />
      </li>
    );
  }
  return (
    <li class={current ? "session is-current" : "session"}>
      <a href={routeOf(session.id)} aria-current={current ? "page" : undefined} onClick={() => (store.drawer.value = false)} dir="auto">
        {running && <span class="session-running" role="img" aria-label={words.runningMark} />}
        {title}
      </a>
      <div class="session-tools">
        <button
          type="button"
          ref={pencil}
          class="icon-button"
          aria-label={words.renameChat(title)}
          title={words.rename}
          onClick={() => setRenaming(true)}
        >
          <Icon name="pencil" />
        </button>
        <button type="button" class="icon-button" aria-label={words.removeChat(title)} title={words.remove} onClick={onDelete}>
          <Icon name="trash" />
        </button>
      </div>
    </li>
  );
}

/** Enter or leaving the field keeps the new title, Esc the old one. `onDone` learns whether a key ended it. */
function RenameField({ session, onDone }: { session: Conversation; onDone: (byKeyboard: boolean) => void }) {
  const chat = useChat();
  const field = useRef<HTMLInputElement>(null);
  const over = useRef(false);
  useEffect(() => field.current?.select(), []);
  const end = (keep: boolean, byKeyboard: boolean) => {
    if (over.current) return;
    over.current = true;
    if (keep) void chat.sessions.rename(session, field.current?.value ?? "");
    onDone(byKeyboard);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    end(event.key === "Enter", true);
  };
  return (
    <input
      ref={field}
      class="session-title"
      aria-label={words.chatTitle}
      maxLength={200}
      dir="auto"
      defaultValue={titleOf(session)}
      onKeyDown={onKeyDown}
      onBlur={() => end(true, false)}
    />
  );
}
