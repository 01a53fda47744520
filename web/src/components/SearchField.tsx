import { useRef } from "preact/hooks";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

/** A pause in typing, milliseconds, after which the server is asked. */
const PAUSE = 200;

export function SearchField() {
  const { store, sessions } = useChat();
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const ask = (text: string) => {
    store.search.value = text;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => void sessions.search(text), text === "" ? 0 : PAUSE);
  };
  return (
    <div class="search" role="search">
      <Icon name="search" />
      <input
        id="search"
        type="search"
        dir="auto"
        autocomplete="off"
        aria-label={words.search}
        placeholder={words.search}
        value={store.search.value}
        onInput={(event) => ask(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape" || store.search.peek() === "") return;
          event.preventDefault();
          ask("");
        }}
      />
    </div>
  );
}
