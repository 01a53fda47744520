import { words } from "../words";
import { useChat } from "./context";

/** Says when the server cannot be reached, and why where it tells. A connection that is just being made is not worth a banner. */
export function ConnectionBanner() {
  const chat = useChat();
  const state = chat.line.value;
  const { server, away } = chat.store;
  const text = server.value === "loading" ? words.serverLoading : server.value === "draining" ? words.serverDraining : words.offline;
  return (
    <div role="status">
      {away.value && (
        <div class="banner">
          <span>{state === "connecting" ? words.connecting : text}</span>
          <button type="button" class="text-button" disabled={state === "connecting"} onClick={() => chat.wake()}>
            {words.tryNow}
          </button>
        </div>
      )}
    </div>
  );
}
