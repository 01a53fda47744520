import { useRef } from "preact/hooks";
import { sayable } from "../announce";
import { isLive } from "../turns";
import { words } from "../words";
import { useChat } from "./context";

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
      const end = sayable(last.text, !running);
      const news = last.text.slice(state.said, end).trim();
      if (end > state.said && news !== "") state.sentences.push(news);
      state.said = Math.max(state.said, end);
    }
  }
  return (
    <div class="unseen" role="log" aria-live="polite" aria-label={words.answerLog}>
      {followed.current.sentences.map((text, index) => (
        <p key={index}>{text}</p>
      ))}
    </div>
  );
}
