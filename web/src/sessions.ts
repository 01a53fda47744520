/** The list of conversations: reading it, and creating, renaming and deleting one. Failures show as the page's notice. */
import { type Api, ApiError, reasonOf } from "./api";
import type { Store } from "./store";
import { type Thread, emptyThread, fromItems } from "./turns";
import type { Conversation } from "./wire";

export class Sessions {
  constructor(
    private readonly store: Store,
    private readonly api: Api,
  ) {}

  /** Read the newest page of the list again, or with `more` the page after what is listed. */
  async list(more = false): Promise<void> {
    const { store } = this;
    try {
      store.list(await this.api.sessions(more ? store.cursor.value : null), more);
      store.locked.value = false;
    } catch (error) {
      store.locked.value = error instanceof ApiError && error.locked;
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

  async rename(session: Conversation, title: string): Promise<void> {
    const wanted = title.trim();
    if (wanted === "" || wanted === session.chatpager.title) return;
    await this.report(async () => this.store.know(await this.api.rename(session, wanted)));
  }

  /** True when the conversation is gone, also when somebody else deleted it before. */
  remove(id: string): Promise<boolean> {
    return this.report(async () => {
      try {
        await this.api.remove(id);
      } catch (error) {
        if (!(error instanceof ApiError && error.status === 404)) throw error;
      }
      this.store.forget(id);
    });
  }

  /** Read one row again: a turn changes its title and its place. */
  async learn(id: string): Promise<void> {
    try {
      const session = await this.api.session(id);
      if (this.store.threads.value.has(id)) this.store.know(session);
    } catch {
      // the row keeps what it shows until the list is read again
    }
  }

  /** A conversation as it is stored. Throws `ApiError`. */
  async read(id: string): Promise<Thread> {
    const session = await this.api.session(id);
    this.store.know(session);
    return fromItems(id, await this.api.items(id), session.chatpager.active_response_id);
  }

  async askHealth(): Promise<void> {
    try {
      const health = await this.api.health();
      this.store.server.value = health.status;
      this.store.model.value = health.model;
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
