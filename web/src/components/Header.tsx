import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

export function Header() {
  const { store } = useChat();
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
      <h1 class="header-title">{store.title.value}</h1>
      {store.model.value !== "" && <span class="header-model">{store.model.value}</span>}
    </header>
  );
}
