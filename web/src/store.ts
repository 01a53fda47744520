/** The one place of state: signals the components read, and the few ways to change them. What happens over time is in chat.ts. */
import { computed, signal } from "@preact/signals";
import { type Thread, liveAnswer } from "./turns";
import type { Conversation, Health, Page } from "./wire";
import { words } from "./words";

function newestFirst(sessions: Iterable<Conversation>): Conversation[] {
  return [...sessions].sort((a, b) => b.chatpager.updated_at - a.chatpager.updated_at);
}

/** The newest page in the place of what was listed; older rows that were loaded before stay below it. */
export function mergeNewest(listed: readonly Conversation[], page: Page<Conversation>): Conversation[] {
  const last = page.data.at(-1);
  const fresh = new Set(page.data.map((one) => one.id));
  const older = !page.has_more || last === undefined ? [] : listed.filter((one) => !fresh.has(one.id) && isOlder(one, last));
  return newestFirst([...page.data, ...older]);
}

function isOlder(a: Conversation, b: Conversation): boolean {
  return a.chatpager.updated_at <= b.chatpager.updated_at;
}

export class Store {
  readonly sessions = signal<readonly Conversation[]>([]);
  readonly listing = signal<"loading" | "ready" | "unreachable">("loading");
  /** Where the next page of the list begins, or null at its end. */
  readonly cursor = signal<string | null>(null);
  /** The open conversation, or null for a new one. */
  readonly currentId = signal<string | null>(null);
  readonly threads = signal<ReadonlyMap<string, Thread>>(new Map());
  readonly draft = signal("");
  /** True from the first message of a new chat until its conversation exists. */
  readonly starting = signal(false);
  /** Something that went wrong and belongs to no turn. */
  readonly notice = signal<string | null>(null);
  /** True from a failed or lost connection until one stands again. */
  readonly away = signal(false);
  /** The server wants an API key: it takes neither calls nor sockets of this page. */
  readonly locked = signal(false);
  readonly server = signal<Health["status"] | null>(null);
  readonly model = signal("");
  readonly drawer = signal(false);

  readonly thread = computed(() => {
    const id = this.currentId.value;
    return id === null ? undefined : this.threads.value.get(id);
  });
  /** The server answers, but says that it cannot work. */
  readonly ailing = computed(() => this.server.value === "stalled" || this.server.value === "stopped");
  readonly live = computed(() => liveAnswer(this.thread.value));
  readonly session = computed(() => this.sessions.value.find((one) => one.id === this.currentId.value));
  readonly title = computed(() => titleOf(this.session.value));
  /** Conversations with a turn under way. */
  readonly running = computed(() => {
    const here = [...this.threads.value.values()].filter((thread) => liveAnswer(thread) !== null).map((thread) => thread.id);
    const elsewhere = this.sessions.value.filter((one) => one.chatpager.active_response_id !== null).map((one) => one.id);
    return new Set([...here, ...elsewhere.filter((id) => !this.threads.value.has(id))]);
  });

  /** Put a thread, new or read again. */
  put(thread: Thread): void {
    this.threads.value = new Map(this.threads.value).set(thread.id, thread);
  }

  /** Take one pure step on a thread; nothing happens when the page no longer holds it. */
  step(id: string, step: (thread: Thread) => Thread): void {
    const before = this.threads.value.get(id);
    if (before === undefined) return;
    const after = step(before);
    if (after !== before) this.put(after);
  }

  list(page: Page<Conversation>, appended: boolean): void {
    const known = this.sessions.value;
    const fresh = new Set(page.data.map((one) => one.id));
    this.sessions.value = appended
      ? newestFirst([...known.filter((one) => !fresh.has(one.id)), ...page.data])
      : mergeNewest(known, page);
    if (appended || this.sessions.value.length === page.data.length) this.cursor.value = page.has_more ? page.last_id : null;
    this.listing.value = "ready";
  }

  /** A conversation as the server just told it. */
  know(session: Conversation): void {
    this.sessions.value = newestFirst([session, ...this.sessions.value.filter((one) => one.id !== session.id)]);
  }

  forget(id: string): void {
    this.sessions.value = this.sessions.value.filter((one) => one.id !== id);
    const threads = new Map(this.threads.value);
    threads.delete(id);
    this.threads.value = threads;
  }
}

export function titleOf(session: Conversation | undefined): string {
  return session?.chatpager.title.trim() || words.untitled;
}
