import { useComputed } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { rootOf } from "../families";
import { routeOf } from "../route";
import { type Store, titleOf } from "../store";
import type { Conversation } from "../wire";
import { words } from "../words";
import { Icon } from "./Icon";
import { SessionMenu } from "./SessionMenu";
import { useChat } from "./context";

export function SessionRow({ session }: { session: Conversation }) {
  const { store } = useChat();
  const [renaming, setRenaming] = useState(false);
  const [menu, setMenu] = useState(false);
  const more = useRef<HTMLButtonElement>(null);
  const wasOpen = useRef(false); // a press beside an open menu has closed it before its click comes
  const title = titleOf(session);
  const current = useComputed(() => isOpen(store, session)).value;
  const running = useComputed(() => store.running.value.has(session.id)).value; // changes seldom, the set with every token
  const renamed = (byKeyboard: boolean) => {
    setRenaming(false);
    if (byKeyboard) requestAnimationFrame(() => more.current?.focus());
  };
  if (renaming) {
    return (
      <li class="session">
        <RenameField session={session} onDone={renamed} />
      </li>
    );
  }
  return (
    <li class={current ? "session is-current" : "session"} data-session={session.id}>
      <a href={routeOf(session.id)} aria-current={current ? "page" : undefined} onClick={() => (store.drawer.value = false)} dir="auto">
        {running && <span class="session-running" role="img" aria-label={words.runningMark} />}
        {title}
      </a>
      <button
        type="button"
        ref={more}
        class="icon-button session-more"
        aria-label={words.moreOf(title)}
        title={words.more}
        aria-expanded={menu}
        onPointerDown={() => (wasOpen.current = menu)}
        onClick={() => {
          setMenu(!wasOpen.current);
          wasOpen.current = false;
        }}
      >
        <Icon name="dots" />
      </button>
      {menu && <SessionMenu session={session} button={more} onRename={() => setRenaming(true)} onClose={() => setMenu(false)} />}
    </li>
  );
}

/** A row stands for all branches of its conversation. */
function isOpen(store: Store, session: Conversation): boolean {
  const open = store.session.value;
  return store.currentId.value === session.id || (open !== undefined && rootOf(open) === rootOf(session));
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
