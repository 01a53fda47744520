import { useEffect } from "preact/hooks";
import { words } from "../words";
import { Announcer } from "./Announcer";
import { Composer } from "./Composer";
import { ConnectionBanner } from "./ConnectionBanner";
import { EmptyState } from "./EmptyState";
import { Header } from "./Header";
import { Notice } from "./Notice";
import { Sidebar } from "./Sidebar";
import { Thread } from "./Thread";
import { ThreadPlace } from "./ThreadPlace";
import { useChat } from "./context";

export function App() {
  const chat = useChat();
  const { store } = chat;
  useStopKey();
  const id = store.currentId.value;
  const thread = store.thread.value;
  const heading = id === null ? words.product : `${store.title.value} · ${words.product}`;
  useEffect(() => void (document.title = heading), [heading]);
  const empty = id === null || (thread?.phase === "ready" && thread.messages.length === 0);
  return (
    <div class="app">
      <Sidebar />
      <main class="main">
        <Header />
        <ConnectionBanner />
        <Notice />
        {empty ? (
          <EmptyState />
        ) : thread?.phase === "ready" ? (
          <Thread key={thread.id} thread={thread} />
        ) : (
          <ThreadPlace phase={thread?.phase ?? "loading"} />
        )}
        <Composer />
      </main>
      <Announcer />
    </div>
  );
}

/** Esc stops the answer, wherever the focus is; a field or dialog that uses Esc itself keeps it. */
function useStopKey(): void {
  const chat = useChat();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || chat.store.live.peek() === null) return;
      chat.stop();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [chat]);
}
