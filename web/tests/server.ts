/** A real server of the wire, small and steered by the test: HTTP for the objects, `ws` for the socket, no model. */
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import type { ClientRequest, CreateRequest, ResumeRequest, ServerEvent } from "../src/events";
import type { AnyItem, CacheReceipt, Conversation, Health, Item, Metadata, ResponseObject, Timings, Usage } from "../src/wire";

export const usage: Usage = {
  input_tokens: 152,
  input_tokens_details: { cached_tokens: 128, cache_write_tokens: 24 },
  output_tokens: 30,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 182,
};
export const cache: CacheReceipt = {
  prompt_tokens: 152,
  device_tokens: 128,
  host_tokens: 0,
  disk_tokens: 0,
  computed_tokens: 24,
  block_size: 16,
  miss_reason: null,
  diverged_at: null,
  attainable_tokens: 128,
  template: "exact",
};
export const timings: Timings = { queue_ms: 0.4, prefill_ms: 80, ttft_ms: 84.2, decode_tok_s: 63.4, total_ms: 560 };

export function item(id: string, role: Item["role"], text: string, own?: Item["chatpager"]): Item {
  const type = role === "assistant" ? "output_text" : "input_text";
  const base: Item = { id, type: "message", role, status: "completed", content: [{ type, text }] };
  return own === undefined ? base : { ...base, chatpager: own };
}

export function response(id: string, change: Partial<ResponseObject> = {}): ResponseObject {
  return {
    id,
    object: "response",
    created_at: 1,
    status: "in_progress",
    model: "demo",
    output: [],
    conversation: null,
    error: null,
    incomplete_details: null,
    usage: null,
    chatpager: {},
    ...change,
  };
}

/** The events of one answer, from `response.created` to `response.completed`. */
export function answerEvents(id: string, pieces: string[], change: Partial<ResponseObject> = {}): ServerEvent[] {
  const text = pieces.join("");
  const output = [item(`msg_${id}`, "assistant", text)];
  const done = response(id, { status: "completed", output, usage, chatpager: { state: "completed", cache, timings }, ...change });
  let sequence_number = 0;
  const place = { item_id: `msg_${id}`, output_index: 0 };
  return [
    { type: "response.created", response: response(id), sequence_number: sequence_number++ },
    ...pieces.map((delta): ServerEvent => ({ type: "response.output_text.delta", ...place, delta, sequence_number: sequence_number++ })),
    { type: "response.output_text.done", ...place, text, sequence_number: sequence_number++ },
    { type: "response.completed", response: done, sequence_number },
  ];
}

export type OnCreate = (request: CreateRequest, socket: WebSocket) => void;

export class TestServer {
  readonly conversations = new Map<string, Conversation>();
  readonly items = new Map<string, AnyItem[]>();
  readonly responses = new Map<string, ResponseObject>();
  readonly sockets = new Set<WebSocket>();
  readonly protocols: string[] = [];
  readonly cancelled: string[] = [];
  readonly drafts: [string | null, string][] = [];
  readonly calls: string[] = [];
  /** What was forked, at which response. */
  readonly forks: [string, string][] = [];
  /** Answers these paths with this status instead, once each. */
  readonly failures = new Map<string, { status: number; body: string }>();
  /** Holds the answer to a path, once computed, until the promise is kept. */
  readonly holds = new Map<string, Promise<void>>();
  /** For so many milliseconds no turn has begun. */
  idle = Infinity;
  /** Wants a login, by the key "right". */
  locked = false;
  /** Whose key that is. */
  tenant = "ann";
  health: Health["status"] = "ok";
  onCreate: OnCreate = () => undefined;
  /** What is not acknowledged shall not begin. */
  onWithdraw: (socket: WebSocket) => void = () => undefined;
  /** Without more, the events are gone. */
  onResume: (request: ResumeRequest, socket: WebSocket) => void = (request, socket) => {
    const { response_id, starting_after } = request;
    const error = { message: "gone", type: "invalid_request_error", param: "response_id", code: "response_events_expired" };
    this.send(socket, { type: "chatpager.resumed", response_id, recovered: false, starting_after, status: null }, { type: "error", status: 410, error });
  };
  private readonly http = createServer((request, reply) => void this.serve(request, reply));
  private readonly upgrades = new WebSocketServer({
    server: this.http,
    path: "/v1/responses",
    verifyClient: (_, done) => done(!this.locked, 401),
  });
  private made = 0;

  async listen(port = 0): Promise<this> {
    this.upgrades.on("connection", (socket) => {
      this.sockets.add(socket);
      this.protocols.push(socket.protocol);
      socket.on("close", () => this.sockets.delete(socket));
      socket.on("message", (frame) => this.heard(JSON.parse(String(frame)) as ClientRequest, socket));
    });
    await new Promise<void>((resolve) => this.http.listen(port, "127.0.0.1", resolve));
    return this;
  }

  get port(): number {
    return (this.http.address() as AddressInfo).port;
  }

  get root(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/v1/responses`;
  }

  async close(): Promise<void> {
    this.dropAll();
    this.upgrades.close();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  /** Cut every socket without a closing handshake, as a dead network does. */
  dropAll(): void {
    for (const socket of this.sockets) socket.terminate();
  }

  send(socket: WebSocket, ...events: ServerEvent[]): void {
    for (const event of events) socket.send(JSON.stringify(event));
  }

  addConversation(title = "", items: AnyItem[] = []): Conversation {
    const id = `conv_${++this.made}`;
    const session: Conversation = {
      id,
      object: "conversation",
      created_at: this.made,
      metadata: {},
      chatpager: { title, updated_at: this.made, forked_from: null, active_response_id: null },
    };
    this.conversations.set(id, session);
    this.items.set(id, items);
    return session;
  }

  private named(session: Conversation, metadata: Record<string, string>): Conversation {
    session.metadata = metadata;
    session.chatpager.title = metadata.title ?? session.chatpager.title;
    return session;
  }

  private fork({ id, metadata, chatpager }: Conversation, at: string): Conversation {
    this.forks.push([id, at]);
    const child = this.addConversation(chatpager.title, upTo(this.items.get(id) ?? [], at));
    child.metadata = { ...metadata };
    child.chatpager.forked_from = id;
    return child;
  }

  private heard(request: ClientRequest, socket: WebSocket): void {
    if (request.type === "response.cancel" && "stream_id" in request) this.onWithdraw(socket);
    else if (request.type === "response.cancel") this.cancelled.push(request.response_id);
    else if (request.type === "chatpager.draft") this.drafts.push([request.conversation ?? null, request.input]);
    else if (request.type === "response.resume") this.onResume(request, socket);
    else this.onCreate(request, socket);
  }

  private async serve(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    const url = new URL(request.url ?? "/", "http://here");
    this.calls.push(`${request.method} ${url.pathname}`);
    const failure = this.failures.get(url.pathname);
    this.failures.delete(url.pathname);
    const { status, value } = failure
      ? { status: failure.status, value: failure.body }
      : this.answer(request.method ?? "GET", url, body === "" ? null : JSON.parse(body));
    await this.holds.get(url.pathname);
    reply.writeHead(status, { "content-type": "application/json" });
    reply.end(typeof value === "string" ? value : JSON.stringify(value));
  }

  private answer(method: string, url: URL, body: { metadata?: Metadata; expected_metadata?: Metadata; at?: string; items?: AnyItem[]; key?: string } | null): { status: number; value: unknown } {
    const [, kind, id, rest] = /^\/(?:v1\/)?(\w+)\/?(\w+)?\/?(\w+)?$/.exec(url.pathname) ?? [];
    const missing = { status: 404, value: { error: { message: "No such thing.", type: "not_found", param: null, code: "not_found" } } };
    if (kind === "health") return { status: this.health === "ok" ? 200 : 503, value: { status: this.health, model: "demo", version: "0" } };
    if (kind === "login") {
      if (method === "POST") this.locked = body?.key !== "right";
      if (method === "DELETE") this.locked = true;
      const who = this.locked ? { tenant: null, role: null } : { tenant: this.tenant, role: "user" };
      if (method !== "POST" || !this.locked) return { status: 200, value: { required: true, ...who } };
    }
    if (this.locked) return { status: 401, value: { error: { message: "send the server's key", type: "authentication_error", param: null, code: "invalid_api_key" } } };
    if (kind === "conversations" && id === undefined) {
      if (method === "POST") return { status: 200, value: this.named(this.addConversation("", body?.items ?? []), body?.metadata ?? {}) };
      const all = [...this.conversations.values()].sort((a, b) => b.chatpager.updated_at - a.chatpager.updated_at);
      return { status: 200, value: page(all, url) };
    }
    if (kind === "responses" && id !== undefined) {
      const one = this.responses.get(id);
      if (one !== undefined && rest === "cancel") this.cancelled.push(id);
      return one === undefined ? missing : { status: 200, value: one };
    }
    const session = this.conversations.get(id ?? "");
    if (kind !== "conversations" || id === undefined || session === undefined) return missing;
    if (rest === "prefetch") return { status: 200, value: { object: "conversation.prefetch", id, tokens: 0 } };
    if (rest === "fork") return { status: 200, value: this.fork(session, body?.at ?? "") };
    if (rest === "items" && method === "POST") {
      const said = (body?.items ?? []) as unknown as { role: Item["role"]; content: string }[];
      this.items.get(id)?.push(...said.map(({ role, content }, place) => item(`msg_again_${id}_${place}`, role, content)));
    }
    if (rest === "items") return { status: 200, value: page(this.items.get(id) ?? [], url) };
    if (method === "POST" && body?.expected_metadata && JSON.stringify(body.expected_metadata) !== JSON.stringify(session.metadata)) {
      return { status: 409, value: { error: { message: "Read it again.", type: "invalid_request_error", param: null, code: "conversation_changed" } } };
    }
    if (method === "POST") this.named(session, body?.metadata ?? {});
    if (method === "DELETE" && Number(url.searchParams.get("idle_ms")) > this.idle) {
      return { status: 409, value: { error: { message: "In use.", type: "invalid_request_error", param: "idle_ms", code: "conversation_changed" } } };
    }
    if (method === "DELETE") this.conversations.delete(id);
    return { status: 200, value: session };
  }
}

function upTo(items: readonly AnyItem[], responseId: string): AnyItem[] {
  const end = items.findIndex((one) => "chatpager" in one && one.chatpager?.response_id === responseId);
  return items.slice(0, end + 1);
}

function page<T extends { id: string }>(all: T[], url: URL) {
  const after = url.searchParams.get("after");
  if (url.searchParams.get("order") === "desc") all = all.toReversed();
  const start = after === null ? 0 : all.findIndex((one) => one.id === after) + 1;
  const data = all.slice(start, start + Number(url.searchParams.get("limit") ?? 20));
  const last = data.at(-1)?.id ?? null;
  return { object: "list", data, first_id: data[0]?.id ?? null, last_id: last, has_more: start + data.length < all.length };
}
