import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

/** A failure that belongs to no turn: shown until it is dismissed or the next action starts. */
export function Notice() {
  const { store } = useChat();
  return (
    <div role="alert">
      {store.notice.value !== null && (
        <div class="banner banner-error">
          <span>{store.notice.value}</span>
          <button type="button" class="icon-button" aria-label={words.dismiss} onClick={() => (store.notice.value = null)}>
            <Icon name="close" />
          </button>
        </div>
      )}
    </div>
  );
}
