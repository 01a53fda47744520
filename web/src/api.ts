/** The HTTP calls of the page. Every failure is an `ApiError`: the server's own message where it sent one, else what happened to the call. */
import type { AnyItem, Conversation, ErrorBody, Explanation, Health, Page, ResponseObject } from "./wire";
import { words } from "./words";

export class ApiError extends Error {
  override readonly name = "ApiError";

  /** `status` is the HTTP status, or 0 when no answer came. */
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message);
  }

  /** The server could not be reached, or is not able to answer just now: asking again may help. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** The server wants a key, which this page has none of. */
  get locked(): boolean {
    return this.status === 401;
  }
}

interface Answer {
  status: number;
  text: string;
}

const ITEMS_PER_PAGE = 100;
export const SESSIONS_PER_PAGE = 50;

export class Api {
  /** `root` is the address the page was served from; `fetcher` is the browser's `fetch`. */
  constructor(
    private readonly root: string,
    private readonly fetcher: typeof fetch = (...call) => fetch(...call),
  ) {}

  /** The newest first; with `search` those with these words in their title or in what was said. */
  sessions(after: string | null = null, search = ""): Promise<Page<Conversation>> {
    const query = new URLSearchParams({ limit: String(SESSIONS_PER_PAGE) });
    if (after !== null) query.set("after", after);
    if (search !== "") query.set("search", search);
    return this.call("GET", `v1/conversations?${query}`);
  }

  session(id: string): Promise<Conversation> {
    return this.call("GET", place(id));
  }

  createSession(metadata: Record<string, string> = {}, items: readonly AnyItem[] = []): Promise<Conversation> {
    return this.call("POST", "v1/conversations", items.length === 0 ? { metadata } : { metadata, items });
  }

  /** The server replaces all metadata, so `metadata` is the whole of it, the title too. */
  update(id: string, metadata: Record<string, string>): Promise<Conversation> {
    return this.call("POST", place(id), { metadata });
  }

  /** A conversation that begins as this one does, up to the answer that `at` gave. */
  fork(id: string, at: string): Promise<Conversation> {
    return this.call("POST", `${place(id)}/fork`, { at });
  }

  async addItems(id: string, items: readonly { type: "message"; role: string; content: string }[]): Promise<void> {
    await this.call("POST", `${place(id)}/items`, { items });
  }

  /** Where the last prompts of two conversations part. */
  explain(first: string, second: string): Promise<Explanation> {
    return this.call("GET", `v1/cache/explain?${new URLSearchParams({ first, second })}`);
  }

  /** The address of a conversation as a file. */
  exportAddress(id: string, format: "json" | "md"): string {
    return new URL(`${place(id)}/export?format=${format}`, this.root).href;
  }

  async remove(id: string): Promise<void> {
    await this.call("DELETE", place(id));
  }

  /** As `remove`, of a page that is being left: nobody hears the answer. */
  removeOnLeaving(id: string): void {
    void this.fetcher(new URL(place(id), this.root), { method: "DELETE", keepalive: true }).catch(() => undefined);
  }

  /** Every item of a conversation, oldest first. */
  async items(id: string): Promise<AnyItem[]> {
    const all: AnyItem[] = [];
    for (;;) {
      const last = all.at(-1);
      const cursor = last === undefined ? "" : `&after=${encodeURIComponent(last.id)}`;
      const path = `${place(id)}/items?limit=${ITEMS_PER_PAGE}&order=asc${cursor}`;
      const page = await this.call<Page<AnyItem>>("GET", path);
      all.push(...page.data);
      if (!page.has_more || page.data.length === 0) return all;
    }
  }

  /** Somebody is about to go on with it: the server brings back what it keeps of it below the device. */
  async prefetch(id: string): Promise<void> {
    await this.call("POST", `${place(id)}/prefetch`, {});
  }

  response(id: string): Promise<ResponseObject> {
    return this.call("GET", `v1/responses/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<ResponseObject> {
    return this.call("POST", `v1/responses/${encodeURIComponent(id)}/cancel`);
  }

  /** Answers also while the server loads or drains, with status 503. */
  async health(): Promise<Health> {
    return parse<Health>(await this.reach("GET", "health"));
  }

  private async reach(method: string, path: string, body?: unknown): Promise<Answer> {
    const headers: Record<string, string> = { accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) };
    try {
      const response = await this.fetcher(new URL(path, this.root), init);
      return { status: response.status, text: await response.text() };
    } catch {
      throw new ApiError(0, words.unreachable); // the browser tells no more than that the call failed
    }
  }

  private async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.reach(method, path, body);
    const value = parse<T & { error?: ErrorBody }>(answer);
    if (answer.status < 400) return value;
    const message = answer.status === 401 ? words.keyWanted : (value.error?.message ?? words.notOurs(answer.status));
    throw new ApiError(answer.status, message, value.error?.code ?? null);
  }
}

function place(id: string): string {
  return `v1/conversations/${encodeURIComponent(id)}`;
}

function parse<T>(answer: Answer): T {
  try {
    return JSON.parse(answer.text) as T;
  } catch {
    throw new ApiError(answer.status < 400 ? 502 : answer.status, words.notOurs(answer.status)); // a proxy's page, say
  }
}

/** The words to show for whatever a call threw. */
export function reasonOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  return String(error);
}
