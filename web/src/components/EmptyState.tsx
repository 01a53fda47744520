import { words } from "../words";
import { Mark } from "./Icon";
import { useChat } from "./context";

export function EmptyState() {
  const chat = useChat();
  return (
    <section class="empty">
      <Mark />
      <h2>{words.emptyTitle}</h2>
      <p>{words.emptyText}</p>
      <ul class="examples" aria-label={words.tryOne}>
        {words.examples.map((text) => (
          <li key={text}>
            <button type="button" class="example" disabled={!chat.ready} onClick={() => void chat.send(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
