/** Making a branch: a fork that has everything before the message that is said anew, listed with its family at the root. */
import type { Api } from "./api";
import { ApiError } from "./calls";
import { asBranch, membersOf, rootOf, withBranch } from "./families";
import type { Store } from "./store";
import { type Message, type Thread, emptyThread, isSilent } from "./turns";
import type { Conversation } from "./wire";
import { words } from "./words";

export interface Branch {
  id: string;
  /** What it goes on with. */
  text: string;
}

export class Branching {
  constructor(
    private readonly store: Store,
    private readonly api: Api,
  ) {}

  /**
   * A branch in which the message `key` is `text` instead, or with null, in which the answer `key` is given again, or that
   * to the message `key` at all. None where there is nothing to say anew. Throws `ApiError`.
   */
  async branch(thread: Thread, key: string, text: string | null): Promise<Branch[]> {
    const messages = thread.messages.filter((one) => one.state !== "refused" && (one.key === key || !isSilent(one)));
    const place = messages.findIndex((one) => one.key === key);
    const asked = text === null && messages[place]?.role !== "user" ? place - 1 : place;
    const said = messages[asked];
    if (said?.role !== "user") return [];
    const kept = messages.slice(0, asked);
    const last = kept.findLastIndex((one) => one.responseId !== null);
    const child = await this.fork(thread.id, kept[last]?.responseId ?? null);
    try {
      await this.sayAgain(child.id, kept.slice(last + 1));
      await this.enlist(thread.id, child, place);
    } catch (error) {
      await this.api.remove(child.id).catch(() => undefined); // told is why there is no branch
      throw error;
    }
    this.store.put({ ...emptyThread(child.id, "ready"), messages: kept });
    return [{ id: child.id, text: text ?? said.text }];
  }

  /** A conversation of what was said up to the answer that the turn `at` gave; for null an empty one. */
  private fork(id: string, at: string | null): Promise<Conversation> {
    if (at !== null) return this.api.fork(id, at);
    const title = this.store.sessions.peek().find((one) => one.id === id)?.chatpager.title;
    return this.api.createSession(title ? { title } : {});
  }

  /** What no turn of the server's ended with. */
  private async sayAgain(id: string, messages: readonly Message[]): Promise<void> {
    const items = messages.map(({ role, text }) => ({ type: "message" as const, role, content: text }));
    if (items.length > 0) await this.api.addItems(id, items);
  }

  private async enlist(parent: string, child: Conversation, at: number): Promise<void> {
    const { api, store } = this;
    const known = store.sessions.peek().find((one) => one.id === parent) ?? (await api.session(parent));
    const root = await api.amend(rootOf(known), (read) => {
      const listed = withBranch(read, { id: child.id, parent, at });
      if (listed === null) throw new ApiError(400, words.tooManyBranches(membersOf(read).length));
      return listed;
    });
    store.know(root);
    store.know(await api.update(child.id, asBranch(child.metadata, root.id)));
  }
}
