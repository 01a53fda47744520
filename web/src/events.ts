/** What goes over the socket: requests of the page, and the server's events. */
import type { AnyItem, ErrorBody, ResponseObject, ResponseStatus, Wishes } from "./wire";

export interface CreateRequest extends Wishes {
  type: "response.create";
  conversation: string;
  input: string;
  /** The server begins one turn with it, however often it is sent. */
  idempotency_key: string;
  /** `on_disconnect: "continue"`: it goes on to its end also without a reader, for whoever comes back a day later. */
  chatpager?: { explain: boolean; on_disconnect?: "continue" };
}

/** Tell the events of a response behind the number `starting_after`, and go on with it. */
export interface ResumeRequest {
  type: "response.resume";
  response_id: string;
  starting_after: number;
}

export interface CancelRequest {
  type: "response.cancel";
  response_id: string;
}

/** End what was sent last and is not acknowledged. */
export interface WithdrawRequest {
  type: "response.cancel";
  stream_id: null;
}

/** What is being written, so far; without input, nothing any more. The server computes it meanwhile, and does not answer. */
export interface DraftRequest extends Wishes {
  type: "chatpager.draft";
  conversation?: string;
  input: string;
}

export type ClientRequest = CreateRequest | ResumeRequest | CancelRequest | WithdrawRequest | DraftRequest;

interface Numbered {
  sequence_number: number;
}

export type TerminalType = "response.completed" | "response.incomplete" | "response.failed";

export type ServerEvent =
  | ({ type: "response.created" | "response.in_progress" | TerminalType; response: ResponseObject } & Numbered)
  | ({ type: "response.output_item.added" | "response.output_item.done"; output_index: number; item: AnyItem } & Numbered)
  | ({ type: "response.output_text.delta"; item_id: string; output_index: number; delta: string } & Numbered)
  | ({ type: "response.output_text.done"; item_id: string; output_index: number; text: string } & Numbered)
  | ({ type: "response.reasoning_text.delta"; item_id: string; output_index: number; delta: string } & Numbered)
  | ({ type: "response.function_call_arguments.delta"; item_id: string; output_index: number; delta: string } & Numbered)
  | { type: "chatpager.resumed"; response_id: string; recovered: boolean; starting_after: number; status: ResponseStatus | null }
  | { type: "chatpager.prefill"; response_id: string; done: number; total: number; cached: number }
  | { type: "error"; status: number; error: ErrorBody; about?: string };

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
  "response.reasoning_text.delta",
  "response.function_call_arguments.delta",
  "chatpager.resumed",
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
