/** The calls of the admin page. Every failure is an `AdminError`; status 0 when no answer came. */
import type { History, Snapshot } from "./wire";

export class AdminError extends Error {
  override readonly name = "AdminError";

  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }

  /** Nobody is let in without a key, or the one that was sent is nobody's. */
  get locked(): boolean {
    return this.status === 401;
  }
}

export class AdminApi {
  /** Sent with every call while it is set, and kept nowhere else. */
  key = "";

  constructor(
    private readonly root: string,
    private readonly fetcher: typeof fetch = (...call) => fetch(...call),
  ) {}

  snapshot(): Promise<Snapshot> {
    return this.json("GET", "v1/admin/snapshot");
  }

  history(seconds: number): Promise<History> {
    return this.json("GET", `v1/admin/history?seconds=${seconds}`);
  }

  /** The stream of snapshots, until `signal` aborts it. */
  live(signal: AbortSignal): Promise<Response> {
    return this.reach("GET", "v1/admin/live", undefined, signal);
  }

  /** What somebody types to ask the same. */
  curl(method: string, path: string, body?: unknown): string {
    const parts = ["curl", ...(method === "GET" ? [] : ["-X", method]), quoted(new URL(path, this.root).href)];
    if (this.key !== "") parts.push("-H", '"authorization: Bearer $CHATPAGER_API_KEY"');
    if (body !== undefined) parts.push("-H", quoted("content-type: application/json"), "-d", quoted(JSON.stringify(body)));
    return parts.join(" ");
  }

  async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    return (await (await this.reach(method, path, body)).json()) as T;
  }

  async bytes(path: string): Promise<ArrayBuffer> {
    return (await this.reach("GET", path)).arrayBuffer();
  }

  private async reach(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = {};
    if (this.key !== "") headers.authorization = `Bearer ${this.key}`;
    if (method !== "GET") headers["X-Chatpager-Page"] = "1"; // no other site's page can send it
    if (body !== undefined) headers["content-type"] = "application/json";
    const init: RequestInit = { method, headers };
    if (body !== undefined) init.body = JSON.stringify(body);
    if (signal !== undefined) init.signal = signal;
    let answer: Response;
    try {
      answer = await this.fetcher(new URL(path, this.root), init);
    } catch (error) {
      throw new AdminError(0, String(error));
    }
    if (answer.ok) return answer;
    throw new AdminError(answer.status, await reasonIn(answer));
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function reasonIn(answer: Response): Promise<string> {
  const text = await answer.text();
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    return `${answer.status} ${answer.statusText}`; // a proxy's page, say
  }
}
