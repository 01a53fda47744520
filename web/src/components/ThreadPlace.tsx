import type { ThreadPhase } from "../turns";
import { words } from "../words";
import { useChat } from "./context";

/** What stands where a conversation would, while it is read or when it cannot be. */
export function ThreadPlace({ phase }: { phase: Exclude<ThreadPhase, "ready"> }) {
  const chat = useChat();
  const id = chat.store.currentId.value;
  const text = { loading: words.loading, missing: words.missing, unreachable: words.chatUnread }[phase];
  return (
    <section class="place" role="status">
      <p class={phase === "loading" ? "place-late" : ""}>{text}</p>
      {phase === "unreachable" && id !== null && (
        <button type="button" class="button" onClick={() => void chat.opening.reload(id)}>
          {words.retry}
        </button>
      )}
      {phase === "missing" && (
        <a class="button" href="#/">
          {words.newChat}
        </a>
      )}
    </section>
  );
}
