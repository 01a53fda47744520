/** The wire as the page speaks it: OpenAI's Responses and Conversations objects, with chatpager's own fields under `chatpager`. */

export interface Usage {
  input_tokens: number;
  input_tokens_details: { cached_tokens: number; cache_write_tokens: number };
  output_tokens: number;
  output_tokens_details: { reasoning_tokens: number };
  total_tokens: number;
}

export type MissReason =
  | "cold"
  | "diverged"
  | "evicted"
  | "lease_expired"
  | "sub_block"
  | "lost"
  | "fingerprint"
  | "salt"
  | "disabled";

/** What the chat template did with earlier answers: `kept` as given where it would have changed them, or `rewritten` by it. */
export type TemplateForm = "exact" | "kept" | "rewritten";

/** The receipt of a turn's cache use; all counts are tokens of the prompt. */
export interface CacheReceipt {
  prompt_tokens: number;
  device_tokens: number;
  host_tokens: number;
  disk_tokens: number;
  /** Of the device's, those that were computed while the message was being written. */
  draft_tokens?: number;
  computed_tokens: number;
  block_size: number;
  miss_reason: MissReason | null;
  diverged_at: number | null;
  attainable_tokens: number;
  template: TemplateForm;
}

/** The first token's time and the speed are null where there was no such token, or only one. */
export interface Timings {
  queue_ms: number;
  prefill_ms: number;
  ttft_ms: number | null;
  decode_tok_s: number | null;
  total_ms: number;
}

export type Role = "user" | "assistant" | "system" | "developer";

export interface TextPart {
  type: "input_text" | "output_text";
  text: string;
}

/** Why a turn did not end well. */
export interface TurnError {
  code: string;
  message: string;
}

/** How a turn stands, in the server's words. `incomplete` is cut at the limit on tokens, `interrupted` by the server's own end. */
export type TurnState = "in_progress" | "completed" | "incomplete" | "interrupted" | "cancelled" | "failed";

export interface Item {
  id: string;
  type: "message";
  role: Role;
  status: "completed" | "incomplete" | "in_progress";
  content: TextPart[];
  /** Of answers that a turn of this server gave; there may be no text in a running one yet. */
  chatpager?: {
    response_id: string;
    state: TurnState;
    usage: Usage | null;
    cache: CacheReceipt | null;
    timings: Timings | null;
    error: TurnError | null;
  };
}

export type ResponseStatus = "in_progress" | "completed" | "incomplete" | "cancelled" | "failed";

export interface ResponseObject {
  id: string;
  object: "response";
  created_at: number;
  status: ResponseStatus;
  model: string;
  output: Item[];
  conversation: { id: string } | null;
  error: TurnError | null;
  incomplete_details: { reason: string } | null;
  usage: Usage | null;
  /** The turn's account once it has ended; nothing of these while it runs. */
  chatpager: { state?: TurnState; cache?: CacheReceipt | null; timings?: Timings | null };
}

export interface Conversation {
  id: string;
  object: "conversation";
  created_at: number;
  metadata: Record<string, string>;
  chatpager: { title: string; updated_at: number; forked_from: string | null; active_response_id: string | null };
}

export interface Page<T> {
  object: "list";
  data: T[];
  first_id: string | null;
  last_id: string | null;
  has_more: boolean;
}

export interface ErrorBody {
  message: string;
  type: string;
  param: string | null;
  code: string | null;
}

export interface Health {
  /** `stalled`: the engine does not come to the end of its step; `stopped`: it has failed, and the server wants a restart. */
  status: "ok" | "draining" | "stalled" | "stopped";
  model: string;
  version: string;
}

export interface CreateRequest {
  type: "response.create";
  conversation: string;
  input: string;
}

export interface CancelRequest {
  type: "response.cancel";
  response_id: string;
}

/** What is being written, so far; without input, nothing any more. The server computes it meanwhile, and does not answer. */
export interface DraftRequest {
  type: "chatpager.draft";
  conversation?: string;
  input: string;
}

export type ClientRequest = CreateRequest | CancelRequest | DraftRequest;

interface Numbered {
  sequence_number: number;
}

export type TerminalType = "response.completed" | "response.incomplete" | "response.failed";

export type ServerEvent =
  | ({ type: "response.created" | "response.in_progress" | TerminalType; response: ResponseObject } & Numbered)
  | ({ type: "response.output_item.added" | "response.output_item.done"; output_index: number; item: Item } & Numbered)
  | ({ type: "response.output_text.delta"; item_id: string; output_index: number; delta: string } & Numbered)
  | ({ type: "response.output_text.done"; item_id: string; output_index: number; text: string } & Numbered)
  | { type: "chatpager.prefill"; response_id: string; done: number; total: number; cached: number }
  | { type: "error"; status: number; error: ErrorBody };

export type EventType = ServerEvent["type"];

/** What the page offers on the upgrade; the server then also sends `chatpager.*` events. */
export const SUBPROTOCOL = "chatpager.v1";

const KNOWN: ReadonlySet<string> = new Set<EventType>([
  "response.created",
  "response.in_progress",
  "response.output_item.added",
  "response.output_item.done",
  "response.output_text.delta",
  "response.output_text.done",
  "response.completed",
  "response.incomplete",
  "response.failed",
  "chatpager.prefill",
  "error",
]);

const TERMINAL: ReadonlySet<string> = new Set<TerminalType>(["response.completed", "response.incomplete", "response.failed"]);

/** One frame's event, or null for a frame that is not JSON or of a type this page does not know (a later server may send more). */
export function parseEvent(frame: unknown): ServerEvent | null {
  if (typeof frame !== "string") return null;
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return null; // a frame cut or garbled on its way: the terminal event carries the whole text
  }
  if (typeof value !== "object" || value === null || !("type" in value)) return null;
  return KNOWN.has(String(value.type)) ? (value as ServerEvent) : null;
}

export function isTerminal(event: ServerEvent): boolean {
  return TERMINAL.has(event.type);
}

export function isRunning(status: ResponseStatus): boolean {
  return status === "in_progress";
}

/** Whether it is something that was said: calls of tools and their results are items too. */
export function isMessage(item: { type: string }): item is Item {
  return item.type === "message";
}

/** All text of an item, its parts joined. */
export function textOf(item: Item): string {
  return item.content.map((part) => part.text).join("");
}
