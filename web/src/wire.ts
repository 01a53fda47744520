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
  /** How the first missing block was lost. */
  evicted?: Eviction | null;
  /** Where the prompt left the conversation's turn before it; null where it goes on with all of that. */
  break?: Break | null;
  published?: string | null;
  published_tokens?: number;
}

export interface Eviction {
  seconds_ago: number;
  eviction_class: string;
  by: string | null;
  lease_expired: boolean;
  lease_revoked: boolean;
}

/** `expected` and `got` are how the earlier turn and this prompt go on from there. */
export interface Break {
  response_id: string;
  token_index: number;
  message_index: number | null;
  role: string | null;
  expected: string | null;
  got: string;
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

export type ItemStatus = "completed" | "incomplete" | "in_progress";

/** The account of the turn that gave an answer. */
export interface TurnAccount {
  response_id: string;
  state: TurnState;
  usage: Usage | null;
  cache: CacheReceipt | null;
  timings: Timings | null;
  error: TurnError | null;
}

/** Something that was said. */
export interface Item {
  id: string;
  type: "message";
  role: Role;
  status: ItemStatus;
  content: TextPart[];
  /** Of an answer that a turn of this server gave, in a running one maybe without text yet; of another message, of a turn that ended before it said anything to it. */
  chatpager?: TurnAccount;
}

/** What a model thought before its answer. */
export interface ReasoningItem {
  id: string;
  type: "reasoning";
  status: ItemStatus;
  content: { type: "reasoning_text"; text: string }[];
}

/** A tool that was called; `arguments` is JSON. An answer of calls alone has its account on the first. */
export interface CallItem {
  id: string;
  type: "function_call";
  status: ItemStatus;
  call_id: string;
  name: string;
  arguments: string;
  chatpager?: TurnAccount;
}

export interface CallOutputItem {
  id: string;
  type: "function_call_output";
  status: ItemStatus;
  call_id: string;
  output: string;
}

export type AnyItem = Item | ReasoningItem | CallItem | CallOutputItem;

export type ResponseStatus = "queued" | "in_progress" | "completed" | "incomplete" | "cancelled" | "failed";

export interface ResponseObject {
  id: string;
  object: "response";
  created_at: number;
  status: ResponseStatus;
  model: string;
  output: AnyItem[];
  /** As the request asked; null where it left the choice to the server. */
  instructions?: string | null;
  max_output_tokens?: number | null;
  conversation: { id: string } | null;
  error: TurnError | null;
  incomplete_details: { reason: string } | null;
  usage: Usage | null;
  /** The turn's account once it has ended; nothing of these while it runs. */
  chatpager: { state?: TurnState; cache?: CacheReceipt | null; timings?: Timings | null };
}

export type Metadata = Record<string, string>;

export interface Conversation {
  id: string;
  object: "conversation";
  created_at: number;
  metadata: Metadata;
  chatpager: { title: string; updated_at: number; forked_from: string | null; active_response_id: string | null };
}

/** Where the prompts of two turns part; tokens of both and of their common beginning. */
export interface Explanation {
  first: string;
  second: string;
  first_tokens: number;
  second_tokens: number;
  common_tokens: number;
  reusable_tokens: number;
}

/** A whole conversation, as it can be read in again. */
export interface Export {
  object: "conversation.export";
  conversation: Conversation;
  items: AnyItem[];
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
  /**
   * `stalled`: the engine does not come to the end of its step; `restarting`: it has failed, and is being made anew; `stopped`: it
   * has failed, and the server wants a restart.
   */
  status: "ok" | "draining" | "stalled" | "restarting" | "stopped";
  model: string;
  version: string;
  /** Tokens that a prompt and its answer may have together; not told while the engine does not answer. */
  max_model_len?: number;
}

/** What a turn may ask for besides its input. */
export interface Wishes {
  instructions?: string;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  max_output_tokens?: number;
  seed?: number;
  stop?: string[];
}

export function isRunning(status: ResponseStatus): boolean {
  return status === "in_progress" || status === "queued";
}

/** All text of an item, its parts joined. */
export function textOf(item: Item | ReasoningItem): string {
  return item.content.map((part) => part.text).join("");
}
