/**
 * A conversation as the page holds it, and the pure steps that change it: one per wire event, one per thing the page learns by reading.
 * Nothing here knows of sockets, signals or clocks; every function returns a new thread, or the same one when nothing changed.
 * Times are milliseconds and come as arguments.
 */
import type { ServerEvent } from "./events";
import { type AnyItem, type CacheReceipt, type CallItem, type ErrorBody, type Item, type ResponseObject, type Role, type Timings, type TurnError, type TurnState, type Usage, isRunning, textOf } from "./wire";

/**
 * sending      the request is on its way, the server has not acknowledged it
 * refused      the server took nothing of it (a user message only)
 * in_progress  acknowledged; text may still come
 * lost         the socket dropped while it ran: the answer is being read from the server again
 * unfinished   stored as not whole, and the server has no turn that says why
 * the rest     as the server says of its turn; none of them changes any more
 */
export type MessageState = "sending" | "refused" | "lost" | "unfinished" | TurnState;

export interface Prefill {
  done: number;
  total: number;
  cached: number;
}

export interface Receipt {
  usage: Usage | null;
  cache: CacheReceipt | null;
  timings: Timings | null;
}

/** A tool that an answer called; `output` is null until its result is there. */
export interface Call {
  id: string;
  callId: string;
  name: string;
  arguments: string;
  output: string | null;
}

/** How fast an answer that this page watches comes: a piece is about a token. `first` is null before any. */
export interface Pace {
  sent: number;
  first: number | null;
  last: number;
  pieces: number;
}

export interface Message {
  /** Stable while the message is on the page; the server's id may come later. */
  key: string;
  role: Role;
  text: string;
  state: MessageState;
  responseId: string | null;
  receipt: Receipt | null;
  error: string | null;
  prefill: Prefill | null;
  /** What the model thought before its answer. */
  thoughts: string;
  calls: readonly Call[];
  pace: Pace | null;
  /** The user asked for a stop and the server has not ended it yet. */
  stopping: boolean;
  /** Of a refused message: it was on its way once, and the server may have it for all this page knows. */
  unsure: boolean;
}

export type ThreadPhase = "loading" | "ready" | "missing" | "unreachable";

export interface Thread {
  id: string;
  phase: ThreadPhase;
  messages: readonly Message[];
  /** The highest sequence number seen of the running response; -1 before the first. */
  sequence: number;
}

const LIVE: ReadonlySet<MessageState> = new Set<MessageState>(["sending", "in_progress", "lost"]);

export function isLive(message: Message): boolean {
  return LIVE.has(message.state);
}

const CUT: ReadonlySet<MessageState> = new Set<MessageState>(["cancelled", "interrupted", "failed", "incomplete"]);

/** An answer that ended before it said anything: the conversation goes on without it, and so do its branches. */
export function isSilent({ role, state, text, thoughts, calls }: Message): boolean {
  return role === "assistant" && CUT.has(state) && text === "" && thoughts === "" && calls.length === 0;
}

/** The place of each message in the conversation: a silent one has that of what would be said in its stead. */
export function placesOf(messages: readonly Message[]): number[] {
  let next = 0;
  return messages.map((one) => (isSilent(one) ? next : next++));
}

/** The turn that is under way: always the last message, when there is one. */
export function liveAnswer(thread: Thread | undefined): Message | null {
  const last = thread?.messages.at(-1);
  return last !== undefined && last.role === "assistant" && isLive(last) ? last : null;
}

export function emptyThread(id: string, phase: ThreadPhase): Thread {
  return { id, phase, messages: [], sequence: -1 };
}

export function message(key: string, role: Role, text: string, state: MessageState): Message {
  const nothing = { responseId: null, receipt: null, error: null, prefill: null, thoughts: "", calls: [], pace: null };
  return { key, role, text, state, ...nothing, stopping: false, unsure: false };
}

/** The user has sent `text`: their message and the answer's empty place. By `key` the server knows the turn again. */
export function begin(thread: Thread, text: string, key: string, now = 0): Thread {
  const answer = { ...message(`${key}-answer`, "assistant" as const, "", "sending"), pace: { sent: now, first: null, last: now, pieces: 0 } };
  const turn = [message(key, "user", text, "sending"), answer];
  return { ...thread, phase: "ready", sequence: -1, messages: [...thread.messages, ...turn] };
}

function amendAnswer(thread: Thread, change: (answer: Message) => Message): Thread {
  const answer = liveAnswer(thread);
  if (answer === null) return thread;
  return { ...thread, messages: [...thread.messages.slice(0, -1), change(answer)] };
}

/** The server holds the user's message: whatever was on its way has arrived. */
function acknowledge(thread: Thread): Thread {
  const messages = thread.messages.map((one) =>
    one.role === "user" && one.state === "sending" ? { ...one, state: "completed" as const } : one,
  );
  return { ...thread, messages };
}

/** What a response says, thinks and calls. */
function answerOf(response: ResponseObject): Pick<Message, "text" | "thoughts" | "calls"> {
  const said = response.output.filter((item) => item.type === "message" && item.role === "assistant") as Item[];
  const thought = response.output.filter((item) => item.type === "reasoning");
  const called = response.output.filter((item) => item.type === "function_call");
  return { text: said.map(textOf).join(""), thoughts: thought.map(textOf).join("\n\n"), calls: called.map(callOf) };
}

export function callOf(item: CallItem): Call {
  return { id: item.id, callId: item.call_id, name: item.name, arguments: item.arguments, output: null };
}

/** Null where there is nothing to account for. */
export function receiptOf(usage: Usage | null, cache: CacheReceipt | null = null, timings: Timings | null = null): Receipt | null {
  return usage || cache || timings ? { usage, cache, timings } : null;
}

/** What is told of a failure; of an interruption the page has its own words. */
export function reasonOf(state: MessageState, error: TurnError | null): string | null {
  return state === "failed" ? (error?.message ?? null) : null;
}

function settle(thread: Thread, response: ResponseObject): Thread {
  const { cache, timings, state = ended(response) } = response.chatpager;
  const told = answerOf(response);
  return amendAnswer(acknowledge(thread), (answer) => ({
    ...answer,
    responseId: response.id,
    text: told.text || answer.text,
    thoughts: told.thoughts || answer.thoughts,
    calls: told.calls.length > 0 ? told.calls : answer.calls,
    state,
    receipt: receiptOf(response.usage, cache, timings),
    error: reasonOf(state, response.error),
    prefill: null,
  }));
}

function ended(response: ResponseObject): TurnState {
  return response.status === "queued" ? "in_progress" : response.status;
}

/** No response began, or with `unsure` none that this page knows of: the answer's place goes away and the user's message says why. */
export function refuse(thread: Thread, reason: string, unsure = false): Thread {
  const answer = liveAnswer(thread);
  if (answer === null) return thread;
  const messages = thread.messages
    .slice(0, -1)
    .map((one) => (one.state === "sending" ? { ...one, state: "refused" as const, error: reason, unsure } : one));
  return { ...thread, messages };
}

/** A refused message is taken back off the page, to be sent again or edited. */
export function withdraw(thread: Thread, key: string): Thread {
  return { ...thread, messages: thread.messages.filter((one) => one.key !== key || one.state !== "refused") };
}

function onError(thread: Thread, error: ErrorBody): Thread {
  const answer = liveAnswer(thread);
  if (answer === null) return thread;
  if (answer.responseId === null) return refuse(thread, error.message);
  return amendAnswer(thread, (running) => ({ ...running, error: error.message })); // a terminal event still follows
}

/** Something of the answer has come: one that was lost runs again, and its pace is taken, unless another page sent it: what is told again comes in a rush. */
function grow(thread: Thread, now: number, change: (answer: Message) => Partial<Message>): Thread {
  return amendAnswer(thread, (answer) => {
    const pace = answer.pace && { ...answer.pace, first: answer.pace.first ?? now, last: now, pieces: answer.pace.pieces + 1 };
    return { ...answer, state: "in_progress", prefill: null, pace, ...change(answer) };
  });
}

/** The answer from its beginning: an event that is told again comes with everything behind it. */
function start(answer: Message, responseId: string): Message {
  return { ...answer, state: "in_progress", responseId, text: "", thoughts: "", calls: [] };
}

function amendCall(answer: Message, id: string, change: (call: Call) => Call): Partial<Message> {
  return { calls: answer.calls.map((call) => (call.id === id ? change(call) : call)) };
}

/** A call begins, or is whole. */
function putCall(thread: Thread, item: AnyItem, now: number): Thread {
  if (item.type !== "function_call") return thread;
  const call = callOf(item);
  return grow(thread, now, (answer) =>
    answer.calls.some((one) => one.id === call.id) ? amendCall(answer, call.id, () => call) : { calls: [...answer.calls, call] },
  );
}

/** One event of the socket that carries this thread's turn. Repeats (a sequence number already seen) change nothing. */
export function apply(thread: Thread, event: ServerEvent, now = 0): Thread {
  if (event.type !== "error" && event.type !== "chatpager.prefill" && event.type !== "chatpager.resumed") {
    if (event.sequence_number <= thread.sequence) return thread;
    thread = { ...thread, sequence: event.sequence_number };
  }
  switch (event.type) {
    case "response.created":
      return amendAnswer(acknowledge(thread), (answer) => start(answer, event.response.id));
    case "response.output_text.delta":
      return grow(thread, now, (answer) => ({ text: answer.text + event.delta }));
    case "response.reasoning_text.delta":
      return grow(thread, now, (answer) => ({ thoughts: answer.thoughts + event.delta }));
    case "response.function_call_arguments.delta":
      return grow(thread, now, (answer) => amendCall(answer, event.item_id, (call) => ({ ...call, arguments: call.arguments + event.delta })));
    case "response.output_item.added":
    case "response.output_item.done":
      return putCall(thread, event.item, now);
    case "response.output_text.done":
      return amendAnswer(thread, (answer) => ({ ...answer, text: event.text, prefill: null }));
    case "response.completed":
    case "response.incomplete":
    case "response.failed":
      return settle(thread, event.response);
    case "chatpager.prefill":
      return amendAnswer(thread, (answer) => ({
        ...answer,
        prefill: { done: event.done, total: event.total, cached: event.cached },
      }));
    case "error":
      return onError(thread, event.error);
    default:
      return thread;
  }
}

/** The socket dropped under the turn: it is neither finished nor failed until the server has been asked. */
export function lose(thread: Thread): Thread {
  return amendAnswer(thread, (answer) => (answer.responseId === null ? answer : { ...answer, state: "lost", prefill: null, stopping: false }));
}

/** The user wants the turn to end, or (`false`) their wish did not reach the server. */
export function stopping(thread: Thread, wanted: boolean): Thread {
  return amendAnswer(thread, (answer) => ({ ...answer, stopping: wanted }));
}

/** The server no longer knows the response: whatever text is here is all there is. */
export function interrupt(thread: Thread): Thread {
  return amendAnswer(acknowledge(thread), (answer) => ({ ...answer, state: "interrupted", prefill: null }));
}

/** What the server says, when asked, of the response this thread's turn belongs to. */
export function adopt(thread: Thread, response: ResponseObject): Thread {
  if (!isRunning(response.status)) return settle(thread, response);
  const told = answerOf(response).text;
  return amendAnswer(acknowledge(thread), (answer) => ({
    ...answer,
    responseId: response.id,
    text: answer.text.startsWith(told) ? answer.text : told, // what is stored may be behind what the socket brought
  }));
}
