/** The one place of state: signals the components read, and the few ways to change them. What happens over time is in chat.ts. */
import { computed, signal } from "@preact/signals";
import { type Member, latestOfEach, membersOf, rootOf } from "./families";
import { type Thread, liveAnswer } from "./turns";
import type { Conversation, Health, Page, Wishes } from "./wire";
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
  /** What the open chat's turns ask for besides their input. */
  readonly wishes = signal<Wishes>({});
  /** The words looked for in the list, and what was found; null while nothing is looked for. */
  readonly search = signal("");
  readonly found = signal<readonly Conversation[] | null>(null);
  /** Where the next page of what was found begins, or null where all of it is there. */
  readonly foundCursor = signal<string | null>(null);
  /** A row that was deleted and can still be had back. */
  readonly doomed = signal<Conversation | null>(null);
  /** True from the first message of a new chat until its conversation exists. */
  readonly starting = signal(false);
  /** Something that went wrong and belongs to no turn. */
  readonly notice = signal<string | null>(null);
  /** True from a failed or lost connection until one stands again. */
  readonly away = signal(false);
  readonly server = signal<Health["status"] | null>(null);
  readonly model = signal("");
  /** Tokens that a prompt and its answer may have together. */
  readonly context = signal(Infinity);
  /** The browser says that there is no network. */
  readonly offline = signal(false);
  readonly drawer = signal(false);
  /** The list is put away, where the page is wide. */
  readonly folded = signal(false);
  readonly dialog = signal<"settings" | "help" | null>(null);

  readonly thread = computed(() => {
    const id = this.currentId.value;
    return id === null ? undefined : this.threads.value.get(id);
  });
  /** The server answers, but says that it cannot work. */
  readonly ailing = computed(() => ["stalled", "restarting", "stopped"].includes(this.server.value ?? ""));
  /** It answers, and takes no new turns any more. */
  readonly draining = computed(() => this.server.value === "draining");
  readonly live = computed(() => liveAnswer(this.thread.value));
  /** Whether a turn of the open conversation is under way, and whether it was asked to stop. */
  readonly busy = computed(() => this.live.value !== null);
  readonly stopping = computed(() => this.live.value?.stopping === true);
  /** Whether a message can be sent now. */
  readonly ready = computed(() => {
    const open = this.currentId.value === null || this.thread.value?.phase === "ready";
    return open && !this.busy.value && !this.starting.value && !this.away.value && !this.offline.value && !this.draining.value;
  });
  readonly session = computed(() => this.sessions.value.find((one) => one.id === this.currentId.value));
  /** What the list shows: found or all, a row for each family, without the one that is being deleted. */
  readonly rows = computed(() => {
    const gone = this.doomed.value === null ? null : rootOf(this.doomed.value);
    const known = new Map(this.sessions.value.map((one) => [one.id, one]));
    const listed = this.found.value?.map((one) => known.get(one.id) ?? one) ?? this.sessions.value;
    return latestOfEach(listed).filter((one) => rootOf(one) !== gone);
  });
  /** The open conversation and its branches; alone where its root is not known here. */
  readonly family = computed((): readonly Member[] => {
    const session = this.session.value;
    const root = session && this.sessions.value.find((one) => one.id === rootOf(session));
    return root === undefined ? [] : membersOf(root);
  });
  /** The same for all branches of the open conversation. */
  readonly rootId = computed(() => this.session.value && rootOf(this.session.value));
  readonly title = computed(() => titleOf(this.session.value));
  /** Conversations with a turn under way. */
  readonly running = computed(() => {
    const here = [...this.threads.value.values()].filter((thread) => liveAnswer(thread) !== null).map((thread) => thread.id);
    const elsewhere = this.sessions.value.filter((one) => one.chatpager.active_response_id !== null).map((one) => one.id);
    return new Set([...here, ...elsewhere.filter((id) => !this.threads.value.has(id))]);
  });

  /** Of a row's versions the open one, or else the latest; `place` is its number among the `of` there are. */
  version(row: Conversation): { id: string; place: number; of: number } {
    const root = this.sessions.peek().find((one) => one.id === rootOf(row));
    const ids = root === undefined ? [row.id] : membersOf(root).map((one) => one.id);
    const open = this.currentId.peek();
    const id = open !== null && ids.includes(open) ? open : row.id;
    return { id, place: ids.indexOf(id) + 1, of: ids.length };
  }

  /** Put a thread, new or read again. */
  put(thread: Thread): void {
    this.threads.value = new Map(this.threads.value).set(thread.id, thread);
  }

  /** Put a thread as the one that was shown last. */
  renew(thread: Thread): void {
    this.release(thread.id);
    this.put(thread);
  }

  /** The page holds the thread no more. */
  release(id: string): void {
    const threads = new Map(this.threads.value);
    threads.delete(id);
    this.threads.value = threads;
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
    this.release(id);
  }
}

export function titleOf(session: Conversation | undefined): string {
  return session?.chatpager.title.trim() || words.untitled;
}
