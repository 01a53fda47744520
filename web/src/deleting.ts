/** Deleting a chat, with some seconds to have it back: until then the server still has all of it. */
import { batch } from "@preact/signals";
import type { Api } from "./api";
import { membersOf, rootOf } from "./families";
import type { Store } from "./store";
import type { Conversation } from "./wire";

/** How long a deleted chat can be had back, milliseconds. */
const REGRET = 8_000;

export interface DeletingOptions {
  store: Store;
  api: Api;
  /** Delete one conversation for good, unless somebody used it in the last `idle` milliseconds. False where it is still there. */
  remove: (id: string, idle: number) => Promise<boolean>;
  go: (id: string | null) => void;
  now: () => number;
  wait: (milliseconds: number) => Promise<void>;
}

export class Deleting {
  /** The conversation that was open when its row was deleted. */
  private open: string | null = null;
  private asked = 0;

  constructor(private readonly options: DeletingOptions) {}

  /** Take a row off the list. It is deleted after a while, or when another row goes, or when the page is left. */
  doom(session: Conversation): void {
    void this.commit();
    const { store, go, wait, now } = this.options;
    this.asked = now();
    const shown = store.session.peek();
    this.open = shown !== undefined && rootOf(shown) === rootOf(session) ? shown.id : null;
    batch(() => {
      store.doomed.value = session;
      if (this.open !== null) go(null);
    });
    void wait(REGRET).then(() => {
      if (store.doomed.peek() === session) void this.commit();
    });
  }

  undo(): void {
    this.options.store.doomed.value = null;
    if (this.open !== null) this.options.go(this.open);
  }

  /** Delete what is doomed, with all its branches; those that are left stay where another page went on with one. */
  async commit(): Promise<void> {
    const { store, remove } = this.options;
    const session = store.doomed.peek();
    if (session === null) return;
    const ids = this.familyOf(session);
    const { idle } = this;
    batch(() => {
      store.doomed.value = null;
      store.sessions.value = store.sessions.value.filter((one) => !ids.includes(one.id));
      store.found.value = store.found.value?.filter((one) => !ids.includes(one.id)) ?? null;
    });
    for (const id of ids) if (!(await remove(id, idle))) return;
  }

  /** For how long it has been doomed, milliseconds. */
  private get idle(): number {
    return Math.max(0, Math.round(this.options.now() - this.asked));
  }

  /** The page is being left: what is doomed goes now. */
  leave(): void {
    const session = this.options.store.doomed.peek();
    if (session !== null) for (const id of this.familyOf(session)) this.options.api.removeOnLeaving(id, this.idle);
  }

  private familyOf(session: Conversation): string[] {
    const root = this.options.store.sessions.peek().find((one) => one.id === rootOf(session));
    const listed = root === undefined ? [] : membersOf(root).map((one) => one.id);
    return [...new Set([session.id, ...listed])];
  }
}
