/** A chat begins with its first message: it is made on the server for that, and unmade where the server does not take it. */
import type { Drafts } from "./drafts";
import type { Opening } from "./opening";
import type { Sessions } from "./sessions";
import type { Store } from "./store";
import type { Message } from "./turns";
import type { Unsent } from "./unsent";
import type { KeptWishes } from "./wishes";
import { words } from "./words";

export interface BeginningOptions {
  store: Store;
  sessions: Sessions;
  opening: Opening;
  drafts: Drafts;
  unsent: Unsent;
  wishes: KeptWishes;
}

export class Beginning {
  /** Made here, and the server has not taken their first message yet. */
  private readonly fresh = new Set<string>();

  constructor(private readonly options: BeginningOptions) {}

  /** A conversation for the new chat's first message, `text`; null when the server made none. What else was written goes there too. */
  async begin(text: string): Promise<string | null> {
    const { store, sessions, opening, drafts, wishes } = this.options;
    store.starting.value = true;
    const id = await sessions.create();
    store.starting.value = false;
    if (id === null) return null;
    this.fresh.add(id);
    const draft = drafts.read(null);
    if (draft !== text) drafts.write(id, draft);
    drafts.write(null, "");
    wishes.write(id, store.wishes.peek());
    wishes.write(null, null);
    if (store.currentId.value === null) opening.enter(id);
    return id;
  }

  /**
   * See what became of the first message. One that the server refused is the draft of a new chat again, and its empty chat goes
   * away: true. Where somebody writes or looks at something else meanwhile, it stays as it is.
   */
  settle(id: string): boolean {
    const { store, drafts } = this.options;
    const [first, ...others] = store.threads.peek().get(id)?.messages ?? [];
    if (!this.fresh.has(id) || first === undefined || first.state === "sending" || first.unsure) return false;
    if (first.state !== "refused") this.fresh.delete(id);
    const alone = first.state === "refused" && others.length === 0 && store.currentId.peek() === id;
    if (!alone || drafts.read(id) !== "" || drafts.read(null) !== "") return false;
    void this.unmake(id, first);
    return true;
  }

  private async unmake(id: string, { text, error }: Message): Promise<void> {
    const { store, sessions, opening, drafts, unsent, wishes } = this.options;
    this.fresh.delete(id);
    drafts.write(null, text);
    wishes.write(null, wishes.read(id));
    wishes.write(id, null);
    opening.go(null);
    store.forget(id);
    unsent.forget(id);
    await sessions.remove(id);
    store.notice.value = words.refused(error ?? "");
  }
}
