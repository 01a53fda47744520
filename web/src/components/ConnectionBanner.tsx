import { words } from "../words";
import { useChat } from "./context";

/** Says when the server cannot be reached or cannot work, and why where it tells. A connection that is just being made is not worth a banner. */
export function ConnectionBanner() {
  const chat = useChat();
  const state = chat.line.value;
  const { server, away, ailing, draining, offline } = chat.store;
  const connecting = away.value && state === "connecting";
  const told = server.value === null || server.value === "ok" ? words.offline : words.server[server.value];
  const leaving = draining.value && !away.value; // a connection stands, and there is nothing to try
  const text = offline.value ? words.noNetwork : connecting ? words.connecting : leaving ? words.draining : told;
  return (
    <div role="status">
      {(away.value || ailing.value || draining.value || offline.value) && (
        <div class="banner">
          <span>{text}</span>
          {!leaving && (
            <button type="button" class="text-button" disabled={connecting} onClick={() => chat.wake()}>
              {words.tryNow}
            </button>
          )}
        </div>
      )}
    </div>
  );
}
