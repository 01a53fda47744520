/** A conversation as the server stores it: its items as messages, and what the page shows brought in line with them. */
import { type Call, type Message, type Thread, callOf, message, reasonOf, receiptOf } from "./turns";
import { type Kept, withUnsent } from "./unsent";
import { type AnyItem, type CallItem, type Item, type Role, type TurnAccount, textOf } from "./wire";

/** The place of an answer that ended before it said anything: what was said to it has its account. */
function unsaid(own: TurnAccount): Message {
  return { ...message(`${own.response_id}-answer`, "assistant", "", own.state), ...fromAccount(own, "") };
}

function fromAccount(own: TurnAccount | undefined, status: string): Partial<Message> {
  if (own === undefined) return { state: status === "completed" ? "completed" : "unfinished" };
  const receipt = receiptOf(own.usage, own.cache, own.timings);
  return { state: own.state, responseId: own.response_id, receipt, error: reasonOf(own.state, own.error) };
}

/** Messages of items: thoughts and calls are parts of the answer they belong to, and a call's result is a part of the call. */
function fold(items: readonly AnyItem[]): Message[] {
  const messages: Message[] = [];
  let thoughts = "";
  const add = (item: Item | CallItem, role: Role, text: string, calls: readonly Call[]) => {
    const silent = role === "assistant" ? undefined : item.chatpager;
    const own = silent === undefined ? item.chatpager : undefined;
    messages.push({ ...message(item.id, role, text, "completed"), ...fromAccount(own, item.status), calls, thoughts });
    if (silent !== undefined) messages.push(unsaid(silent));
    thoughts = "";
  };
  for (const item of items) {
    const last = messages.at(-1);
    if (item.type === "message") add(item, item.role, textOf(item), []);
    else if (item.type === "reasoning") thoughts = textOf(item);
    else if (item.type === "function_call_output") answerCall(messages, item.call_id, item.output);
    else if (item.chatpager !== undefined || thoughts !== "" || last?.role !== "assistant") add(item, "assistant", "", [callOf(item)]);
    else messages[messages.length - 1] = { ...last, calls: [...last.calls, callOf(item)] };
  }
  return messages;
}

function answerCall(messages: Message[], callId: string, output: string): void {
  const place = messages.findLastIndex((one) => one.calls.some((call) => call.callId === callId));
  const called = messages[place];
  if (called === undefined) return;
  messages[place] = { ...called, calls: called.calls.map((call) => (call.callId === callId ? { ...call, output } : call)) };
}

/**
 * The thread as the server stores it. `active` is the response that runs now, if any: when its item is not stored yet
 * (the answer has no text so far), its place is put at the end.
 */
export function fromItems(id: string, items: readonly AnyItem[], active: string | null): Thread {
  const messages = fold(items);
  if (active !== null && !messages.some((one) => one.responseId === active)) {
    messages.push({ ...message(`${active}-answer`, "assistant", "", "in_progress"), responseId: active });
  }
  return { id, phase: "ready", messages, sequence: -1 };
}

/**
 * The stored thread in the place of what the page showed. Messages that did not change keep their object, so nothing of them is
 * drawn again; messages the server never took (`unsent`) stay where they were, to be sent again.
 */
export function reread(shown: Thread, stored: Thread, unsent: readonly Kept[] = []): Thread {
  const before = shown.messages.filter((one) => one.state !== "refused");
  const keys = new Set(stored.messages.map((one) => one.key));
  const messages = stored.messages.map((one, index) => merged(before[index], one, keys));
  return withUnsent({ ...stored, messages }, unsent);
}

function merged(before: Message | undefined, stored: Message, keys: ReadonlySet<string>): Message {
  if (before === undefined || before.role !== stored.role) return stored;
  if (before.key !== stored.key && keys.has(before.key)) return stored;
  const same = fingerprint(before) === fingerprint(stored);
  const complete = before.receipt !== null || stored.receipt === null;
  return same && complete ? before : { ...stored, key: before.key };
}

function fingerprint({ text, state, responseId, thoughts, calls }: Message): string {
  return JSON.stringify([text, state, responseId, thoughts, calls.map(({ id, output }) => [id, output])]);
}

/** Whether all of `newest`, the last items of a conversation, is shown. Of what is shown some may not be stored. */
export function isShown(newest: readonly AnyItem[], shown: Thread): boolean {
  const here = shown.messages.filter((one) => one.state !== "refused");
  let place = here.length;
  return fold(newest).reverse().every(({ role, text, responseId }) => {
    const same = (mine: Message) => mine.role === role && mine.responseId === responseId && (responseId !== null || mine.text === text);
    place = here.findLastIndex((mine, index) => index < place && same(mine));
    return place >= 0;
  });
}
