/** The HTTP calls of the page. Every failure is an `ApiError`: the server's own message where it sent one, else what happened to the call. */
import type { Conversation, ErrorBody, Health, Item, Page, ResponseObject } from "./wire";
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

  sessions(after: string | null = null): Promise<Page<Conversation>> {
    const cursor = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    return this.call("GET", `v1/conversations?limit=${SESSIONS_PER_PAGE}${cursor}`);
  }

  session(id: string): Promise<Conversation> {
    return this.call("GET", `v1/conversations/${encodeURIComponent(id)}`);
  }

  createSession(): Promise<Conversation> {
    return this.call("POST", "v1/conversations", { metadata: {} });
  }

  /** The server replaces all metadata, so the rest of it is sent along. */
  rename(session: Conversation, title: string): Promise<Conversation> {
    const metadata = { ...session.metadata, title };
    return this.call("POST", `v1/conversations/${encodeURIComponent(session.id)}`, { metadata });
  }

  async remove(id: string): Promise<void> {
    await this.call("DELETE", `v1/conversations/${encodeURIComponent(id)}`);
  }

  /** Every item of a conversation, oldest first. */
  async items(id: string): Promise<Item[]> {
    const all: Item[] = [];
    for (;;) {
      const last = all.at(-1);
      const cursor = last === undefined ? "" : `&after=${encodeURIComponent(last.id)}`;
      const path = `v1/conversations/${encodeURIComponent(id)}/items?limit=${ITEMS_PER_PAGE}&order=asc${cursor}`;
      const page = await this.call<Page<Item>>("GET", path);
      all.push(...page.data);
      if (!page.has_more || page.data.length === 0) return all;
    }
  }

  /** Somebody is about to go on with it: the server brings back what it keeps of it below the device. */
  async prefetch(id: string): Promise<void> {
    await this.call("POST", `v1/conversations/${encodeURIComponent(id)}/prefetch`, {});
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
