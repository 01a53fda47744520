import { groupByAge } from "../ages";
import { count } from "../format";
import { words } from "../words";
import { SessionRow } from "./SessionRow";
import { useChat } from "./context";

export function SessionList() {
  const chat = useChat();
  const { rows, found, listing, cursor } = chat.store;
  const none = rows.value.length === 0;
  return (
    <nav class="sessions" aria-label={words.chats}>
      <p class={found.value === null ? "unseen" : "sessions-note"} role="status">
        {found.value !== null && (none ? words.nothingFound : words.found(count(rows.value.length), rows.value.length === 1))}
      </p>
      {found.value === null && listing.value === "ready" && none && <p class="sessions-note">{words.noChats}</p>}
      {found.value === null && listing.value === "unreachable" && <p class="sessions-note">{words.listUnread}</p>}
      {groupByAge(rows.value, Date.now()).map((group) => (
        <section key={group.name}>
          <h2 class="sessions-age">{group.name}</h2>
          <ul>
            {group.sessions.map((session) => (
              <SessionRow key={session.id} session={session} />
            ))}
          </ul>
        </section>
      ))}
      {found.value === null && cursor.value !== null && (
        <button type="button" class="text-button sessions-more" onClick={() => void chat.sessions.list(true)}>
          {words.moreChats}
        </button>
      )}
    </nav>
  );
}
