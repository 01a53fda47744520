/** The HTTP calls of the chat page. */
import { ApiError, Calls, parse } from "./calls";
import type { AnyItem, Conversation, Explanation, Health, Metadata, Page, ResponseObject } from "./wire";

const ITEMS_PER_PAGE = 100;
const NEWEST = 8;
/** Each in vain has let another's change through. */
const TRIES = 20;
export const SESSIONS_PER_PAGE = 50;

export class Api extends Calls {
  /** The newest first; with `search` those with these words in their title or in what was said. */
  sessions(after: string | null = null, search = ""): Promise<Page<Conversation>> {
    const query = new URLSearchParams({ limit: String(SESSIONS_PER_PAGE) });
    if (after !== null) query.set("after", after);
    if (search !== "") query.set("search", search);
    return this.json("GET", `v1/conversations?${query}`);
  }

  session(id: string): Promise<Conversation> {
    return this.json("GET", place(id));
  }

  createSession(metadata: Record<string, string> = {}, items: readonly AnyItem[] = []): Promise<Conversation> {
    return this.json("POST", "v1/conversations", items.length === 0 ? { metadata } : { metadata, items });
  }

  /** The server replaces all metadata, so `metadata` is the whole of it, the title too. */
  update(id: string, metadata: Metadata, expected?: Metadata): Promise<Conversation> {
    return this.json("POST", place(id), { metadata, expected_metadata: expected });
  }

  /** Have a conversation's metadata changed, whoever else changes it at the same moment. */
  async amend(id: string, change: (session: Conversation) => Metadata): Promise<Conversation> {
    for (let tries = 1; ; tries++) {
      const session = await this.session(id);
      try {
        return await this.update(id, change(session), session.metadata);
      } catch (error) {
        if (!(error instanceof ApiError && error.code === "conversation_changed") || tries === TRIES) throw error;
      }
    }
  }

  /** A conversation that begins as this one does, up to the answer that `at` gave. */
  fork(id: string, at: string): Promise<Conversation> {
    return this.json("POST", `${place(id)}/fork`, { at });
  }

  async addItems(id: string, items: readonly { type: "message"; role: string; content: string }[]): Promise<void> {
    await this.json("POST", `${place(id)}/items`, { items });
  }

  /** Where the last prompts of two conversations part. */
  explain(first: string, second: string): Promise<Explanation> {
    return this.json("GET", `v1/cache/explain?${new URLSearchParams({ first, second })}`);
  }

  /** The address of a conversation as a file. */
  exportAddress(id: string, format: "json" | "md"): string {
    return new URL(`${place(id)}/export?format=${format}`, this.root).href;
  }

  /** Only where no turn of it began in the last `idle` milliseconds. */
  async remove(id: string, idle = 0): Promise<void> {
    await this.json("DELETE", unused(id, idle));
  }

  /** As `remove`, of a page that is being left: nobody hears the answer. */
  removeOnLeaving(id: string, idle: number): void {
    void this.send("DELETE", unused(id, idle), undefined, { keepalive: true }).catch(() => undefined);
  }

  /** Every item of a conversation, oldest first. */
  async items(id: string): Promise<AnyItem[]> {
    const all: AnyItem[] = [];
    for (;;) {
      const last = all.at(-1);
      const cursor = last === undefined ? "" : `&after=${encodeURIComponent(last.id)}`;
      const path = `${place(id)}/items?limit=${ITEMS_PER_PAGE}&order=asc${cursor}`;
      const page = await this.json<Page<AnyItem>>("GET", path);
      all.push(...page.data);
      if (!page.has_more || page.data.length === 0) return all;
    }
  }

  /** The last few items of a conversation, oldest first. */
  async newest(id: string): Promise<AnyItem[]> {
    const page = await this.json<Page<AnyItem>>("GET", `${place(id)}/items?limit=${NEWEST}&order=desc`);
    return page.data.reverse();
  }

  /** Somebody is about to go on with it: the server brings back what it keeps of it below the device. */
  async prefetch(id: string): Promise<void> {
    await this.json("POST", `${place(id)}/prefetch`, {});
  }

  response(id: string): Promise<ResponseObject> {
    return this.json("GET", `v1/responses/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<ResponseObject> {
    return this.json("POST", `v1/responses/${encodeURIComponent(id)}/cancel`);
  }

  /** Answers also while the server loads or drains, with status 503. */
  async health(): Promise<Health> {
    return parse<Health>(await this.send("GET", "health"));
  }
}

function place(id: string): string {
  return `v1/conversations/${encodeURIComponent(id)}`;
}

function unused(id: string, idle: number): string {
  return `${place(id)}?idle_ms=${idle}`;
}
