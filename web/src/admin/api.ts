/** The calls of the admin page. */
import { Calls } from "../calls";
import type { History } from "./wire";

export class AdminApi extends Calls {
  history(seconds: number): Promise<History> {
    return this.json("GET", `v1/admin/history?seconds=${seconds}`);
  }

  /** The stream of snapshots, until `signal` aborts it. */
  live(signal: AbortSignal): Promise<Response> {
    return this.reach("GET", "v1/admin/live", undefined, signal);
  }

  /** What somebody types to ask the same; `keyed` where the server asks for a key. */
  curl(keyed: boolean, method: string, path: string, body?: unknown): string {
    const parts = ["curl", ...(method === "GET" ? [] : ["-X", method]), quoted(new URL(path, this.root).href)];
    if (keyed) parts.push("-H", '"authorization: Bearer $CHATPAGER_API_KEY"');
    if (body !== undefined) parts.push("-H", quoted("content-type: application/json"), "-d", quoted(JSON.stringify(body)));
    return parts.join(" ");
  }

  async bytes(path: string): Promise<ArrayBuffer> {
    return (await this.reach("GET", path)).arrayBuffer();
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
