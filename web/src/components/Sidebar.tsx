import { useEffect, useRef } from "preact/hooks";
import { words } from "../words";
import { Icon, Mark } from "./Icon";
import { ImportButton } from "./ImportButton";
import { SearchField } from "./SearchField";
import { SessionList } from "./SessionList";
import { useChat } from "./context";
import { useNarrow } from "./narrow";

/** The list of chats: beside the conversation, or a drawer over it where the page is narrow. */
export function Sidebar() {
  const { drawer, folded, dialog } = useChat().store;
  const narrow = useNarrow();
  const hidden = narrow ? !drawer.value : folded.value;
  const first = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (!narrow || !drawer.value) return;
    const before = document.activeElement;
    first.current?.focus();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, [narrow, drawer.value]);
  const close = () => (drawer.value = false);
  return (
    <>
      <aside
        id="sidebar"
        class={drawer.value ? "sidebar is-open" : "sidebar"}
        inert={hidden}
        onKeyDown={(event) => {
          if (event.key !== "Escape" || !narrow || event.defaultPrevented) return;
          event.preventDefault();
          close();
        }}
      >
        <div class="sidebar-head">
          <Mark />
          <span class="wordmark">{words.product}</span>
          <button type="button" class="icon-button drawer-button" aria-label={words.closeChats} onClick={close}>
            <Icon name="close" />
          </button>
        </div>
        <a class="button new-chat" href="#/" ref={first} onClick={close}>
          <Icon name="plus" />
          {words.newChat}
        </a>
        <SearchField />
        <SessionList />
        <div class="sidebar-foot">
          <ImportButton />
          <button type="button" class="text-button" onClick={() => (dialog.value = "help")}>
            {words.help}
          </button>
        </div>
      </aside>
      {drawer.value && <div class="backdrop" onClick={close} />}
    </>
  );
}
