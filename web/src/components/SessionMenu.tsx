import type { RefObject } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { isPinned } from "../families";
import { titleOf } from "../store";
import type { Conversation } from "../wire";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";
import { refocus, rowButton } from "./refocus";

interface SessionMenuProps {
  session: Conversation;
  /** The button it belongs to. */
  button: RefObject<HTMLButtonElement | null>;
  onRename: () => void;
  onClose: () => void;
}

/** What can be done with a row. It stands on top of everything, and Esc or a click beside it closes it. */
export function SessionMenu({ session, button, onRename, onClose }: SessionMenuProps) {
  const chat = useChat();
  const menu = useRef<HTMLDivElement>(null);
  const pinned = isPinned(session);
  useLayoutEffect(() => {
    const box = menu.current;
    const place = button.current?.getBoundingClientRect();
    if (box === null || place === undefined) return;
    box.showPopover?.();
    box.style.top = `${Math.max(8, Math.min(place.bottom + 4, window.innerHeight - box.offsetHeight - 8))}px`;
    box.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - box.offsetWidth - 8))}px`;
    box.querySelector("button")?.focus();
  }, [button]);
  const then = (act: () => void) => () => {
    onClose();
    button.current?.focus();
    act();
  };
  const pin = async () => {
    await chat.sessions.pin(session, !pinned);
    refocus(rowButton(session.id)); // the row is another one, elsewhere
  };
  const entry = (name: "pin" | "pencil" | "trash", label: string, act: () => void) => (
    <button type="button" class="menu-entry" onClick={then(act)}>
      <Icon name={name} />
      {label}
    </button>
  );
  const { id, place, of } = chat.store.version(session);
  const file = (format: "json" | "md", label: string) => (
    <a
      class="menu-entry"
      href={chat.sessions.exportAddress(id, format)}
      download={`${titleOf(session)}${of > 1 ? ` ${place}-${of}` : ""}.${format}`}
      onClick={then(() => undefined)}
    >
      <Icon name="down" />
      {label}
      {of > 1 && words.oneVersion(String(place), String(of))}
    </a>
  );
  return (
    <div
      ref={menu}
      class="menu"
      popover="auto"
      role="group"
      aria-label={words.moreOf(titleOf(session))}
      onToggle={(event) => event.newState === "closed" && onClose()}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.preventDefault(); // the drawer and a running answer are not meant
        then(() => undefined)();
      }}
    >
      {entry("pin", pinned ? words.unpin : words.pin, () => void pin())}
      {entry("pencil", words.rename, onRename)}
      {file("json", words.exportJson)}
      {file("md", words.exportMarkdown)}
      {entry("trash", words.remove, () => chat.deleting.doom(session))}
    </div>
  );
}
