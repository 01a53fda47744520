/**
 * A conversation as the page holds it, and the pure steps that change it: one per wire event, one per thing the page learns by reading.
 * Nothing here knows of sockets, signals or time; every function returns a new thread, or the same one when nothing changed.
 */
import {
  type CacheReceipt,
  type ErrorBody,
  type Item,
  type ResponseObject,
  type Role,
  type ServerEvent,
  type Timings,
  type TurnError,
  type TurnState,
  type Usage,
  isRunning,
  isMessage,
  textOf,
} from "./wire";

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
  /** The user asked for a stop and the server has not ended it yet. */
  stopping: boolean;
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

/** The turn that is under way: always the last message, when there is one. */
export function liveAnswer(thread: Thread | undefined): Message | null {
  const last = thread?.messages.at(-1);
  return last !== undefined && last.role === "assistant" && isLive(last) ? last : null;
}

export function emptyThread(id: string, phase: ThreadPhase): Thread {
  return { id, phase, messages: [], sequence: -1 };
}

function message(key: string, role: Role, text: string, state: MessageState): Message {
  return { key, role, text, state, responseId: null, receipt: null, error: null, prefill: null, stopping: false };
}

/** The user has sent `text`: their message and the answer's empty place. `key` is new on this page. */
export function begin(thread: Thread, text: string, key: string): Thread {
  const turn = [message(`${key}-user`, "user", text, "sending"), message(`${key}-answer`, "assistant", "", "sending")];
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

function answerText(response: ResponseObject): string {
  return response.output.filter((item) => isMessage(item) && item.role === "assistant").map(textOf).join("");
}

/** Null where there is nothing to account for. */
function receiptOf(usage: Usage | null, cache: CacheReceipt | null = null, timings: Timings | null = null): Receipt | null {
  return usage || cache || timings ? { usage, cache, timings } : null;
}

/** What is told of a failure; of an interruption the page has its own words. */
function reasonOf(state: MessageState, error: TurnError | null): string | null {
  return state === "failed" ? (error?.message ?? null) : null;
}

function settle(thread: Thread, response: ResponseObject): Thread {
  const { cache, timings, state = response.status } = response.chatpager;
  return amendAnswer(acknowledge(thread), (answer) => ({
    ...answer,
    responseId: response.id,
    text: answerText(response) || answer.text,
    state,
    receipt: receiptOf(response.usage, cache, timings),
    error: reasonOf(state, response.error),
    prefill: null,
  }));
}

/** No response began: the answer's place goes away and the user's message says why. */
export function refuse(thread: Thread, reason: string): Thread {
  const answer = liveAnswer(thread);
  if (answer === null) return thread;
  const messages = thread.messages
    .slice(0, -1)
    .map((one) => (one.state === "sending" ? { ...one, state: "refused" as const, error: reason } : one));
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

/** One event of the socket that carries this thread's turn. Repeats (a sequence number already seen) change nothing. */
export function apply(thread: Thread, event: ServerEvent): Thread {
  if (event.type !== "error" && event.type !== "chatpager.prefill") {
    if (event.sequence_number <= thread.sequence) return thread;
    thread = { ...thread, sequence: event.sequence_number };
  }
  switch (event.type) {
    case "response.created":
      return amendAnswer(acknowledge(thread), (answer) => ({ ...answer, state: "in_progress", responseId: event.response.id }));
    case "response.output_text.delta":
      return amendAnswer(thread, (answer) => ({ ...answer, text: answer.text + event.delta, prefill: null }));
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
  return amendAnswer(thread, (answer) => ({ ...answer, state: "lost", prefill: null, stopping: false }));
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
  const told = answerText(response);
  return amendAnswer(acknowledge(thread), (answer) => ({
    ...answer,
    responseId: response.id,
    text: answer.text.startsWith(told) ? answer.text : told, // what is stored may be behind what the socket brought
  }));
}

function fromItem(item: Item): Message {
  const own = item.chatpager;
  return {
    key: item.id,
    role: item.role,
    text: textOf(item),
    state: own?.state ?? (item.status === "completed" ? "completed" : "unfinished"),
    responseId: own?.response_id ?? null,
    receipt: own ? receiptOf(own.usage, own.cache, own.timings) : null,
    error: own ? reasonOf(own.state, own.error) : null,
    prefill: null,
    stopping: false,
  };
}

/**
 * The thread as the server stores it. `active` is the response that runs now, if any: when its item is not stored yet
 * (the answer has no text so far), its place is put at the end.
 */
export function fromItems(id: string, items: readonly Item[], active: string | null): Thread {
  const messages = items.filter(isMessage).map(fromItem);
  if (active !== null && !messages.some((one) => one.responseId === active)) {
    messages.push({ ...message(`${active}-answer`, "assistant", "", "in_progress"), responseId: active });
  }
  return { id, phase: "ready", messages, sequence: -1 };
}

/**
 * The stored thread in the place of what the page showed. Messages that did not change keep their object, so nothing of them is
 * drawn again; messages the server never took stay where they were, to be sent again.
 */
export function reread(shown: Thread, stored: Thread): Thread {
  const before = shown.messages.filter((one) => one.state !== "refused");
  const keys = new Set(stored.messages.map((one) => one.key));
  const messages = stored.messages.map((one, index) => merged(before[index], one, keys));
  shown.messages.forEach((one, index) => {
    if (one.state === "refused") messages.splice(index, 0, one);
  });
  return { ...stored, messages };
}

function merged(before: Message | undefined, stored: Message, keys: ReadonlySet<string>): Message {
  if (before === undefined || before.role !== stored.role) return stored;
  if (before.key !== stored.key && keys.has(before.key)) return stored;
  const same = before.text === stored.text && before.state === stored.state && before.responseId === stored.responseId;
  const complete = before.receipt !== null || stored.receipt === null;
  return same && complete ? before : { ...stored, key: before.key };
}

/** As `reread`, for a turn whose socket dropped before it was acknowledged: the stored messages tell whether the server took it. */
export function recover(lost: Thread, stored: Thread, reason: string): Thread {
  const pending = lost.messages.findIndex((one) => one.role === "user" && one.state === "sending");
  if (pending < 0) return reread(lost, stored);
  const earlier = lost.messages.slice(0, pending).filter((one) => one.state !== "refused").length;
  const text = lost.messages[pending]?.text;
  const taken = stored.messages.slice(earlier).some((one) => one.role === "user" && one.text === text);
  return reread(taken ? lost : refuse(lost, reason), stored);
}
