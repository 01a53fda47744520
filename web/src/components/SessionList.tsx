import { groupByAge } from "../ages";
import { count } from "../format";
import { words } from "../words";
import { SessionRow } from "./SessionRow";
import { useChat } from "./context";
import { refocus, rowLink } from "./refocus";

export function SessionList() {
  const chat = useChat();
  const { rows, found, foundCursor, listing, cursor, search } = chat.store;
  const looking = found.value !== null;
  const none = rows.value.length === 0;
  const more = (looking ? foundCursor : cursor).value !== null;
  const showMore = async () => {
    const before = rows.peek().length;
    await (looking ? chat.sessions.search(search.peek(), true) : chat.sessions.list(true));
    const next = rows.peek()[before];
    if (next !== undefined) refocus(rowLink(next.id)); // the button may be gone
  };
  const number = `${count(rows.value.length)}${more ? "+" : ""}`;
  return (
    <nav class="sessions" aria-label={words.chats}>
      <p class={looking ? "sessions-note" : "unseen"} role="status">
        {looking && (none ? words.nothingFound : words.found(number, number === "1"))}
      </p>
      {!looking && listing.value === "ready" && none && <p class="sessions-note">{words.noChats}</p>}
      {!looking && listing.value === "unreachable" && <p class="sessions-note">{words.listUnread}</p>}
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
      {more && (
        <button type="button" class="text-button sessions-more" onClick={() => void showMore()}>
          {words.moreChats}
        </button>
      )}
    </nav>
  );
}
