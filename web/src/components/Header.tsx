import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";
import { toggleList } from "./keys";

export function Header() {
  const chat = useChat();
  const { store } = chat;
  const asked = Object.keys(store.wishes.value).length > 0;
  return (
    <header class="header">
      <button
        type="button"
        class="icon-button drawer-button"
        aria-label={words.openChats}
        aria-expanded={store.drawer.value}
        aria-controls="sidebar"
        onClick={() => (store.drawer.value = true)}
      >
        <Icon name="menu" />
      </button>
      <button
        type="button"
        class="icon-button fold-button"
        aria-label={words.toggleChats}
        title={`${words.toggleChats} (Ctrl+B)`}
        aria-expanded={!store.folded.value}
        aria-controls="sidebar"
        onClick={() => toggleList(chat)}
      >
        <Icon name="panel" />
      </button>
      <h1 class="header-title" dir="auto">
        {store.title.value}
      </h1>
      {store.model.value !== "" && <span class="header-model">{store.model.value}</span>}
      <button
        type="button"
        class={asked ? "icon-button is-marked" : "icon-button"}
        aria-label={words.settings}
        title={words.settings}
        aria-haspopup="dialog"
        onClick={() => (store.dialog.value = "settings")}
      >
        <Icon name="gear" />
      </button>
    </header>
  );
}
