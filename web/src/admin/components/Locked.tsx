import { words } from "../words";
import { useStore } from "./context";

/** The server wants a key, or another one. */
export function Locked() {
  const store = useStore();
  const forbidden = store.feed.value === "forbidden";
  return (
    <form
      class="locked card"
      onSubmit={(event) => {
        event.preventDefault();
        store.unlock(String(new FormData(event.currentTarget).get("key") ?? ""));
      }}
    >
      <h2>{words.value.lockedTitle}</h2>
      <p>{forbidden ? words.value.forbiddenText : words.value.lockedText}</p>
      <label class="locked-key">
        <span>{words.value.key}</span>
        <input class="field" type="password" name="key" required autocomplete="off" />
      </label>
      <button type="submit" class="button button-main">
        {words.value.open}
      </button>
    </form>
  );
}
