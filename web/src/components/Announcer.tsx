import { useRef } from "preact/hooks";
import { sayable, spoken } from "../announce";
import { isLive } from "../turns";
import { words } from "../words";
import { useChat } from "./context";

/** Sentences that stay in the log: what goes from it is not announced. */
const KEPT = 50;

/** An unseen log that takes in a running answer sentence by sentence; the visible text itself is not live. */
export function Announcer() {
  const { thread } = useChat().store;
  const followed = useRef({ key: "", sentences: [] as string[], said: 0 });
  const last = thread.value?.messages.at(-1);
  if (last?.role === "assistant") {
    const running = isLive(last);
    if (running && followed.current.key !== last.key) followed.current = { key: last.key, sentences: [], said: 0 };
    const state = followed.current;
    if (state.key === last.key) {
      const end = state.said + sayable(last.text.slice(state.said), !running);
      const news = spoken(last.text.slice(state.said, end));
      if (end > state.said && news !== "") state.sentences.push(news);
      state.said = Math.max(state.said, end);
    }
  }
  const { sentences } = followed.current;
  return (
    <div class="unseen" role="log" aria-live="polite" aria-label={words.answerLog}>
      {sentences.slice(-KEPT).map((text, place) => (
        <p key={Math.max(0, sentences.length - KEPT) + place}>{text}</p>
      ))}
    </div>
  );
}
