/** The list of conversations: reading and searching it, and creating, naming, pinning and deleting one. Failures show as the page's notice. */
import type { Api } from "./api";
import { ApiError, reasonOf } from "./calls";
import { pinnedAs, rootOf } from "./families";
import { readFile } from "./files";
import type { Store } from "./store";
import { fromItems } from "./stored";
import { type Thread, emptyThread } from "./turns";
import type { Conversation, Metadata } from "./wire";
import { words } from "./words";

export class Sessions {
  constructor(
    private readonly store: Store,
    private readonly api: Api,
    /** Other pages of this browser are told of what changed here. */
    private readonly changed: (id: string) => void = () => undefined,
  ) {}

  /** Read the newest page of the list again, or with `more` the page after what is listed. */
  async list(more = false): Promise<void> {
    const { store } = this;
    try {
      store.list(await this.api.sessions(more ? store.cursor.value : null), more);
    } catch (error) {
      if (more) store.notice.value = reasonOf(error);
      else if (store.listing.value === "loading") store.listing.value = "unreachable";
    }
  }

  /** A new conversation, listed and with an empty thread; null when the server made none. */
  async create(): Promise<string | null> {
    let id: string | null = null;
    await this.report(async () => {
      const session = await this.api.createSession();
      id = session.id;
      this.store.know(session);
      this.store.put(emptyThread(session.id, "ready"));
    });
    return id;
  }

  /** The address of a conversation as a file. */
  exportAddress(id: string, format: "json" | "md"): string {
    return this.api.exportAddress(id, format);
  }

  /** A conversation of what a file holds; null where it holds none, or the server made none. */
  async fromFile(text: string): Promise<string | null> {
    const read = readFile(text);
    if (read === null) {
      this.store.notice.value = words.importFailed;
      return null;
    }
    let id: string | null = null;
    await this.report(async () => {
      const session = await this.api.createSession(read.title === "" ? {} : { title: read.title }, read.items);
      id = session.id;
      this.store.know(session);
      this.changed(id);
    });
    return id;
  }

  async rename(session: Conversation, title: string): Promise<void> {
    const wanted = title.trim();
    if (wanted === "" || wanted === session.chatpager.title) return;
    await this.amendFamily(session, (metadata) => ({ ...metadata, title: wanted }));
  }

  async pin(session: Conversation, pinned: boolean): Promise<void> {
    await this.amendFamily(session, (metadata) => pinnedAs(metadata, pinned));
  }

  /** A row stands for all branches of a conversation, so far as they are known here. */
  private async amendFamily(session: Conversation, change: (metadata: Metadata) => Metadata): Promise<void> {
    const family = this.store.sessions.value.filter((one) => one.id !== session.id && rootOf(one) === rootOf(session));
    await this.report(async () => {
      for (const one of [session, ...family]) this.store.know(await this.api.amend(one.id, (read) => change(read.metadata)));
    });
    this.changed(session.id);
  }

  /** Look for `words` on the server, or with `more` for those after what was found; the empty text shows the whole list again. */
  async search(text: string, more = false): Promise<void> {
    const { store } = this;
    store.search.value = text;
    const words = text.trim();
    if (words === "") {
      store.found.value = null;
      return;
    }
    const before = more ? (store.found.value ?? []) : [];
    try {
      const page = await this.api.sessions(more ? store.foundCursor.value : null, words);
      if (store.search.value !== text) return; // what was typed since has its own answer
      const fresh = page.data.filter((one) => before.every(({ id }) => id !== one.id));
      store.found.value = [...before, ...fresh];
      store.foundCursor.value = page.has_more ? page.last_id : null;
    } catch (error) {
      store.notice.value = reasonOf(error);
    }
  }

  /** True when the conversation is gone, also when somebody else deleted it before; false too where it was used in the last `idle` milliseconds. */
  remove(id: string, idle = 0): Promise<boolean> {
    return this.report(async () => {
      try {
        await this.api.remove(id, idle);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.code === "conversation_changed") throw new ApiError(error.status, words.usedAgain);
        if (!error.gone) throw error;
      }
      this.store.forget(id);
      this.changed(id);
    });
  }

  /** Read one row again: a turn changes its title and its place. False where the conversation is gone. */
  async learn(id: string): Promise<boolean> {
    try {
      const session = await this.api.session(id);
      if (this.store.threads.value.has(id)) this.store.know(session);
      return true;
    } catch (error) {
      return !(error instanceof ApiError && error.gone); // the row keeps what it shows until the list is read again
    }
  }

  /** A conversation as it is stored. Throws `ApiError`. */
  async read(id: string): Promise<Thread> {
    const session = await this.api.session(id);
    this.store.know(session);
    await this.knowRoot(session);
    return fromItems(id, await this.api.items(id), session.chatpager.active_response_id);
  }

  /** The root of a branch lists its versions; one that is gone leaves the branch to itself. */
  private async knowRoot(session: Conversation): Promise<void> {
    const root = rootOf(session);
    if (root !== session.id) await this.api.session(root).then((found) => this.store.know(found), () => undefined);
  }

  async askHealth(): Promise<void> {
    try {
      const health = await this.api.health();
      this.store.server.value = health.status;
      this.store.model.value = health.model;
      if (health.max_model_len !== undefined) this.store.context.value = health.max_model_len;
    } catch {
      this.store.server.value = null; // the banner already says that there is no connection
    }
  }

  /** Run an action whose failure belongs to no turn. */
  async report(action: () => Promise<void>): Promise<boolean> {
    this.store.notice.value = null;
    try {
      await action();
      return true;
    } catch (error) {
      this.store.notice.value = reasonOf(error);
      return false;
    }
  }
}
