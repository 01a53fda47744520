import { Mark } from "../../components/Icon";
import { words as chatWords } from "../../words";
import { LANGUAGES, type Language, language, speak, words } from "../words";
import { useStore } from "./context";

/** The head of the page: what is served, whether it is live, and the few things that concern every view. */
export function Bar() {
  const store = useStore();
  const { paused, feed, snapshot, login } = store;
  const draining = snapshot.value?.status === "draining" && ["live", "lost"].includes(feed.value); // it ends the feed by and by
  return (
    <header class="bar">
      <a class="bar-home" href="#/overview" aria-label="chatpager">
        <Mark />
        <span>chatpager</span>
      </a>
      <span class="bar-model" title={snapshot.value?.model}>
        {snapshot.value === null ? "" : `${snapshot.value.model} · ${snapshot.value.version}`}
      </span>
      <span class={`feed feed-${feed.value}`} role="status">
        {draining ? words.value.drainingNow : words.value.feed[feed.value]}
      </span>
      <button type="button" class="button" onClick={() => store.pause(!paused.value)}>
        {paused.value ? words.value.resume : words.value.pause}
      </button>
      <select
        class="button"
        aria-label={words.value.language}
        value={language.value}
        onChange={(event) => {
          speak(event.currentTarget.value as Language);
          location.reload(); // what is said by both pages is read once
        }}
      >
        {Object.entries(LANGUAGES).map(([tag, name]) => (
          <option key={tag} value={tag} lang={tag}>
            {name}
          </option>
        ))}
      </select>
      {login.leavable.value && (
        <button type="button" class="button" title={chatWords.login.as(login.who.value?.role ?? "", login.who.value?.tenant ?? "")} onClick={() => store.act("", () => login.leave())}>
          {chatWords.login.leave}
        </button>
      )}
    </header>
  );
}
