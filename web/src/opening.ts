/** Opening a conversation: it is shown at once, read from the server, and its prefix is got ready for the next message. */
import { batch } from "@preact/signals";
import type { Api } from "./api";
import { ApiError } from "./calls";
import type { Carrying } from "./carrying";
import type { Drafts } from "./drafts";
import type { Sessions } from "./sessions";
import type { Store } from "./store";
import { reread } from "./stored";
import { emptyThread } from "./turns";
import type { Wishes } from "./wire";
import { type KeptWishes, wishesOf } from "./wishes";

export interface OpeningOptions {
  store: Store;
  api: Api;
  sessions: Sessions;
  carrying: Carrying;
  drafts: Drafts;
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
      if (id !== null && !store.threads.value.has(id)) store.put(emptyThread(id, "loading"));
    });
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
    if (read !== null && !store.threads.peek().has(id)) store.put(read);
  }

  /** Read a conversation from the server, unless a turn of it is under way here. */
  async reload(id: string): Promise<void> {
    const { store, sessions, carrying } = this.options;
    if (carrying.busy(id)) return;
    const before = store.threads.value.get(id);
    try {
      const stored = await sessions.read(id);
      // A turn that began meanwhile, even one that has ended since, knows more than what was read.
      store.step(id, (thread) => (thread === before ? reread(thread, stored) : thread));
      if (!carrying.has(id)) void carrying.pursuit.follow(id); // a turn with a socket tells by itself how it goes
      void this.learnWishes(id);
    } catch (error) {
      const missing = error instanceof ApiError && error.status === 404;
      if (!missing && error instanceof ApiError && !error.passing) store.notice.value = error.message;
      store.step(id, (thread) => {
        if (missing) return emptyThread(id, "missing");
        return thread.phase === "ready" ? thread : emptyThread(id, "unreachable");
      });
    }
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
