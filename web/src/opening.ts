/** Opening a conversation: it is shown at once, read from the server, and its prefix is got ready for the next message. */
import { batch } from "@preact/signals";
import type { Api } from "./api";
import { ApiError } from "./calls";
import type { Carrying } from "./carrying";
import type { Drafts } from "./drafts";
import type { Sessions } from "./sessions";
import type { Store } from "./store";
import { reread } from "./stored";
import { type Thread, emptyThread } from "./turns";
import { type Kept, type Unsent, unsentOf } from "./unsent";
import type { Wishes } from "./wire";
import { type KeptWishes, wishesOf } from "./wishes";
import { words } from "./words";

/** How many conversations the page holds: the others are read again when they are opened. */
const HELD = 24;

export interface OpeningOptions {
  store: Store;
  api: Api;
  sessions: Sessions;
  carrying: Carrying;
  drafts: Drafts;
  unsent: Unsent;
  wishes: KeptWishes;
  /** Show this conversation in the page's address. */
  navigate: (id: string | null) => void;
}

export class Opening {
  constructor(private readonly options: OpeningOptions) {}

  /** Show a conversation, or a new one for null. */
  open(id: string | null): void {
    if (this.options.store.currentId.value === id) return;
    this.show(id);
    this.expect(id);
    if (id !== null) void this.reload(id);
  }

  /** Open it, and say so in the address. */
  go(id: string | null): void {
    this.open(id);
    this.options.navigate(id);
  }

  /** Show a conversation that this page has just made: there is nothing to read of it yet. */
  enter(id: string): void {
    this.show(id);
    this.options.navigate(id);
  }

  show(id: string | null): void {
    const { store, drafts, wishes } = this.options;
    batch(() => {
      store.currentId.value = id;
      store.draft.value = drafts.read(id);
      store.wishes.value = wishes.read(id) ?? {};
      store.notice.value = null;
      store.drawer.value = false;
      if (id !== null) store.renew(store.threads.value.get(id) ?? emptyThread(id, "loading"));
    });
    this.makeRoom();
  }

  /** Let go of what was shown longest ago, but of nothing that is going on. */
  private makeRoom(): void {
    const { store, carrying, unsent } = this.options;
    const idle = [...store.threads.peek().values()].filter(({ id }) => id !== store.currentId.peek() && !carrying.busy(id));
    for (const thread of idle.slice(0, Math.max(0, store.threads.peek().size - HELD))) {
      unsent.add(thread.id, this.unsentIn(thread));
      store.release(thread.id);
    }
  }

  /** The page is left, or may be: what the server has not taken is kept. */
  keep(): void {
    for (const thread of this.options.store.threads.peek().values()) this.options.unsent.add(thread.id, this.unsentIn(thread));
  }

  /** Of this page, and of one before it where there is nothing here yet. */
  private unsentIn(thread: Thread): Kept[] {
    const here = unsentOf(thread, words.lostBeforeStored);
    return thread.phase === "ready" ? here : [...this.options.unsent.read(thread.id), ...here];
  }

  /** Have the conversation's prefix ready before its next message. What goes wrong with it costs warmth, and nothing else. */
  expect(id: string | null): void {
    if (id !== null) this.options.api.prefetch(id).catch(() => undefined);
  }

  /** Have a branch at hand before somebody looks at it. */
  async preload(id: string): Promise<void> {
    const { store, sessions } = this.options;
    if (store.threads.peek().has(id)) return;
    const read = await sessions.read(id).catch(() => null); // told when it is opened
    if (read !== null && !store.threads.peek().has(id)) store.put(this.arranged(emptyThread(id, "loading"), read));
    this.makeRoom();
  }

  /** Read a conversation from the server, unless a turn of it is under way here. */
  async reload(id: string): Promise<void> {
    const { store, sessions, carrying } = this.options;
    if (carrying.busy(id)) return;
    const before = store.threads.value.get(id);
    try {
      const stored = await sessions.read(id);
      // A turn that began meanwhile, even one that has ended since, knows more than what was read.
      store.step(id, (thread) => (thread === before ? this.arranged(thread, stored) : thread));
      if (!carrying.has(id)) void carrying.pursuit.follow(id); // a turn with a socket tells by itself how it goes
      void this.learnWishes(id);
    } catch (error) {
      const missing = error instanceof ApiError && error.gone;
      if (!missing && error instanceof ApiError && !error.passing) store.notice.value = error.message;
      if (missing) this.rescue(id);
      store.step(id, (thread) => {
        if (missing) return emptyThread(id, "missing");
        return thread.phase === "ready" ? thread : emptyThread(id, "unreachable");
      });
    }
  }

  private arranged(shown: Thread, stored: Thread): Thread {
    return reread(shown, stored, this.unsentIn(shown));
  }

  /** The conversation is gone, and with it its row: what was written for it becomes the draft of a new one. */
  private rescue(id: string): void {
    const { store, drafts, unsent } = this.options;
    const thread = store.threads.peek().get(id);
    const open = store.currentId.peek();
    const shown = open === id ? store.draft.peek() : "";
    const told = thread === undefined ? [] : this.unsentIn(thread).map((one) => one.text);
    const fresh = drafts.read(null);
    store.sessions.value = store.sessions.peek().filter((one) => one.id !== id);
    const lost = new Set([...told, ...drafts.take(id), shown].filter((text) => text !== "" && !fresh.includes(text))); // another page may have been faster
    unsent.forget(id);
    if (lost.size === 0) return;
    drafts.write(null, [fresh, ...lost].filter((text) => text !== "").join("\n\n"));
    if (open === id || open === null) store.draft.value = drafts.read(open);
    store.notice.value = words.rescued;
  }

  /** What the chat's last turn asked for, where this browser does not know. */
  private async learnWishes(id: string): Promise<void> {
    const { store, wishes, carrying } = this.options;
    const last = store.threads.peek().get(id)?.messages.findLast((one) => one.responseId !== null);
    if (last?.responseId == null || wishes.read(id) !== null) return;
    const response = await carrying.pursuit.ask(last.responseId);
    if (typeof response !== "string" && wishes.read(id) === null) this.wish(wishesOf(response), id);
  }

  /** What the chat's turns ask for from now on. */
  wish(wanted: Wishes, id = this.options.store.currentId.peek()): void {
    const { store, wishes } = this.options;
    wishes.write(id, wanted);
    if (store.currentId.peek() === id) store.wishes.value = wanted;
  }
}
