import { EmptyState } from "./EmptyState";
import { Thread } from "./Thread";
import { ThreadPlace } from "./ThreadPlace";
import { useChat } from "./context";

/** The open conversation, or what stands in its place. */
export function Middle() {
  const { store } = useChat();
  const thread = store.thread.value;
  if (store.currentId.value === null || (thread?.phase === "ready" && thread.messages.length === 0)) return <EmptyState />;
  if (thread?.phase === "ready") return <Thread key={store.rootId.value ?? thread.id} thread={thread} />;
  return <ThreadPlace phase={thread?.phase ?? "loading"} />;
}
