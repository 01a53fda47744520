/** What the calls of both pages have in common. Every failure is an `ApiError`: the server's own message where it sent one, else what happened. */
import { signal } from "@preact/signals";
import type { ErrorBody } from "./wire";
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

  /** The server wants a login. */
  get locked(): boolean {
    return this.status === 401;
  }

  /** The server, and no proxy before it, says that there is no such thing, or no more. */
  get gone(): boolean {
    return this.status === 404 && this.code !== null;
  }

  /** Asking again may help: the server could not be reached, is not able to answer just now, or waits for a login. */
  get passing(): boolean {
    return this.status === 0 || this.locked || this.status === 429 || this.status >= 500;
  }
}

export class Calls {
  /** The server wants a login: until there is one no call is made, but those that need none. */
  readonly locked = signal(false);

  /** `root` is the address the page was served from; `fetcher` is the browser's `fetch`. */
  constructor(
    protected readonly root: string,
    private readonly fetcher: typeof fetch = (...call) => fetch(...call),
  ) {}

  async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    return parse<T>(await this.reach(method, path, body));
  }

  /** A successful answer; `signal` aborts it. */
  async reach(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
    if (this.locked.peek()) throw new ApiError(401, words.login.ended);
    const answer = await this.send(method, path, body, signal === undefined ? {} : { signal });
    if (answer.status === 401) this.locked.value = true;
    return accepted(answer);
  }

  /** As `json`, of a place that needs no login. */
  async open<T>(method: string, path: string, body?: unknown): Promise<T> {
    return parse<T>(await accepted(await this.send(method, path, body)));
  }

  /** Any answer. */
  protected async send(method: string, path: string, body?: unknown, more: RequestInit = {}): Promise<Response> {
    const headers: Record<string, string> = { accept: "application/json" };
    if (method !== "GET") headers["X-Chatpager-Page"] = "1"; // no other site's page can send it
    if (body !== undefined) headers["content-type"] = "application/json";
    const init: RequestInit = { method, headers, ...more };
    if (body !== undefined) init.body = JSON.stringify(body);
    try {
      return await this.fetcher(new URL(path, this.root), init);
    } catch {
      throw new ApiError(0, words.unreachable); // the browser tells no more than that the call failed
    }
  }
}

/** Throws `ApiError` where it is not the server's: a proxy's page, say. */
export async function parse<T>(answer: Response): Promise<T> {
  const text = await textOf(answer);
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new ApiError(answer.status < 400 ? 502 : answer.status, words.notOurs(answer.status));
  }
}

async function textOf(answer: Response): Promise<string> {
  try {
    return await answer.text();
  } catch {
    throw new ApiError(0, words.unreachable); // it broke off
  }
}

async function accepted(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  const { error } = await parse<{ error?: ErrorBody }>(answer);
  const message = answer.status === 401 ? words.login.ended : (error?.message ?? words.notOurs(answer.status));
  throw new ApiError(answer.status, message, error?.code ?? null);
}

/** The words to show for whatever a call threw. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
