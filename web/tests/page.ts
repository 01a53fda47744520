/** A page without its components, before a real server: made anew for every test, its clock and its frames in the test's hand. */
import { afterEach, beforeEach, expect, vi } from "vitest";
import { type WebSocket as ServerSocket, WebSocket as NodeWebSocket } from "ws";
import { Api } from "../src/api";
import { Chat } from "../src/chat";
import { Drafts } from "../src/drafts";
import { Lines } from "../src/lines";
import { Unsent } from "../src/unsent";
import { Login } from "../src/login";
import { KeptWishes } from "../src/wishes";
import type { CreateRequest } from "../src/events";
import { TestServer, answerEvents, cache, item, response, timings, usage } from "./server";
import { memoryStorage } from "./storage";

export let server: TestServer;
export let chat: Chat;
export let lines: Lines;
/** What the page put into its address, in order. */
export let address: (string | null)[];
/** How often the page was to be loaded anew. */
export let restarts: number;
export const clock = { now: 0 };
let inStorage: Storage;
let end: () => void;

function makeChat(root: string, storage = memoryStorage().storage): Chat {
  lines = new Lines({
    url: `${root.replace("http", "ws")}v1/responses`,
    wait: { first: 5, longest: 20 },
    socket: (url, protocol) => new NodeWebSocket(url, protocol) as unknown as WebSocket,
  });
  inStorage = storage;
  address = [];
  clock.now = 0;
  const api = new Api(root);
  restarts = 0;
  return new Chat({
    api,
    login: new Login(api, ["user", "admin"], () => void restarts++),
    lines,
    drafts: new Drafts(() => storage),
    unsent: new Unsent(() => storage),
    wishes: new KeptWishes(() => storage),
    navigate: (id) => void address.push(id),
    now: () => clock.now,
    wait: () => new Promise((resolve) => setTimeout(resolve, 1)),
    schedule: queueMicrotask,
  });
}

beforeEach(async () => {
  server = await new TestServer().listen();
  chat = makeChat(server.root);
  end = () => undefined;
});

afterEach(async () => {
  end();
  lines.close();
  await server.close();
});

/** What other pages of this browser can do to what is kept. */
export const forgetDrafts = () => inStorage.removeItem(`chatpager.draft.${chat.store.currentId.peek() ?? "new"}`);

/** What this browser keeps of messages that the server may not have. */
export const unsentOf = (id: string) => new Unsent(() => inStorage).read(id);

/** Takes the server away. Returns the way to have a new one, empty, at the same address. */
export async function stopServer(): Promise<() => Promise<void>> {
  const { port } = server;
  await server.close();
  return async () => {
    server = await new TestServer().listen(port);
  };
}

export const eventually = <T>(check: () => T) => vi.waitFor(check, { timeout: 5000, interval: 5 });

/** Starts the page, whatever becomes of it. */
export function begin(id: string | null): void {
  end = chat.start(id);
}

/** The page is left, or ends without a word, and is loaded anew. */
export function startAgain(id: string | null, leaves = true): void {
  if (leaves) chat.leave();
  end();
  lines.close();
  chat = makeChat(server.root, inStorage);
  begin(id);
}

/** The page at an empty conversation that another made. */
export async function startInOne(): Promise<void> {
  await start(server.addConversation().id);
  await eventually(() => expect(chat.ready).toBe(true));
}

export async function start(id: string | null = null): Promise<void> {
  begin(id);
  await eventually(() => expect([chat.line.value, chat.store.listing.value]).toEqual(["open", "ready"]));
}

/** The open conversation's messages, as role, text and state. */
export const shown = () => (chat.store.thread.value?.messages ?? []).map((one) => [one.role, one.text, one.state]);

export const storedState = { response_id: "resp_1", state: "completed" as const, usage, cache, timings, error: null };

/** The server stores the turn as a real one does, and says the first `count` of its events (all without `count`). */
export function answers(id: string, pieces: string[], count?: number) {
  return (request: CreateRequest, socket: ServerSocket) => {
    const events = answerEvents(id, pieces);
    server.items.get(request.conversation)?.push(item(`msg_u_${id}`, "user", request.input));
    server.responses.set(id, response(id));
    server.send(socket, ...events.slice(0, count));
  };
}

/** The answer is finished on the server, whoever listens. */
export function finish(conversation: string, id: string, text: string): void {
  const answer = item(`msg_${id}`, "assistant", text, { ...storedState, response_id: id });
  server.items.get(conversation)?.push(answer);
  server.responses.set(id, response(id, { status: "completed", output: [answer], usage, chatpager: { state: "completed", cache, timings } }));
}
