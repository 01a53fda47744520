import { useState } from "preact/hooks";
import { groupByAge } from "../ages";
import { titleOf } from "../store";
import type { Conversation } from "../wire";
import { words } from "../words";
import { Confirm } from "./Confirm";
import { SessionRow } from "./SessionRow";
import { useChat } from "./context";

export function SessionList() {
  const chat = useChat();
  const { sessions, listing, cursor } = chat.store;
  const [doomed, setDoomed] = useState<Conversation | null>(null);
  return (
    <nav class="sessions" aria-label={words.chats}>
      {listing.value === "ready" && sessions.value.length === 0 && <p class="sessions-note">{words.noChats}</p>}
      {listing.value === "unreachable" && <p class="sessions-note">{words.listUnread}</p>}
      {groupByAge(sessions.value, Date.now()).map((group) => (
        <section key={group.name}>
          <h2 class="sessions-age">{group.name}</h2>
          <ul>
            {group.sessions.map((session) => (
              <SessionRow key={session.id} session={session} onDelete={() => setDoomed(session)} />
            ))}
          </ul>
        </section>
      ))}
      {cursor.value !== null && (
        <button type="button" class="text-button sessions-more" onClick={() => void chat.sessions.list(true)}>
          {words.moreChats}
        </button>
      )}
      {doomed !== null && (
        <Confirm
          question={words.removeQuestion}
          warning={words.removeWarning(titleOf(doomed))}
          yes={words.remove}
          no={words.keep}
          onYes={() => void chat.remove(doomed.id)}
          onClose={() => setDoomed(null)}
        />
      )}
    </nav>
  );
}
