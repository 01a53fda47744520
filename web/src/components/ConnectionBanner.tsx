import { words } from "../words";
import { useChat } from "./context";

/** Says when the server cannot be reached or cannot work, and why where it tells. A connection that is just being made is not worth a banner. */
export function ConnectionBanner() {
  const chat = useChat();
  const state = chat.line.value;
  const { server, away, ailing, locked } = chat.store;
  const connecting = away.value && state === "connecting";
  const text = server.value === null || server.value === "ok" ? words.offline : words.server[server.value];
  return (
    <div role="status">
      {(away.value || ailing.value || locked.value) && (
        <div class="banner">
          <span>{locked.value ? words.keyWanted : connecting ? words.connecting : text}</span>
          <button type="button" class="text-button" disabled={connecting} onClick={() => chat.wake()}>
            {words.tryNow}
          </button>
        </div>
      )}
    </div>
  );
}
