import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import { Lines } from "../src/lines";
import { ResponsesSocket, type TurnListener, backoff } from "../src/socket";
import type { CreateRequest, ServerEvent } from "../src/events";
import { TestServer, answerEvents } from "./server";

const request: CreateRequest = { type: "response.create", conversation: "conv_1", idempotency_key: "k", input: "Hi" };
const options = (url: string) => ({
  url,
  wait: { first: 5, longest: 40 },
  random: () => 0.5,
  socket: (address: string, protocol: string) => new NodeWebSocket(address, protocol) as unknown as WebSocket,
});

function recorder() {
  const events: ServerEvent[] = [];
  const drops: boolean[] = [];
  const listener: TurnListener = { event: (event) => void events.push(event), dropped: (sent) => void drops.push(sent) };
  return { events, drops, listener };
}

let server: TestServer;
let line: ResponsesSocket;
beforeEach(async () => {
  server = await new TestServer().listen();
  line = new ResponsesSocket({ ...options(server.url), lasting: true });
});
afterEach(async () => {
  line.close();
  await server.close();
});
const open = (one = line) => vi.waitFor(() => expect(one.state.value).toBe("open"));

describe("the connection", () => {
  it("offers the subprotocol and opens", async () => {
    line.connect();
    await open();
    expect(server.protocols).toEqual(["chatpager.v1"]);
  });

  it("connects once however often it is asked to", async () => {
    line.connect();
    line.connect();
    await open();
    line.connect();
    expect(server.sockets.size).toBe(1);
  });

  it("comes back by itself after a drop", async () => {
    const states: string[] = [];
    line.state.subscribe((state) => void states.push(state));
    line.connect();
    await open();
    server.dropAll();
    await vi.waitFor(() => expect(server.protocols).toHaveLength(2));
    await open();
    expect(states).toEqual(["closed", "connecting", "open", "waiting", "connecting", "open"]);
  });

  it("keeps trying while there is no server, and does not wait when asked to connect now", async () => {
    const { port } = server;
    await server.close();
    line.connect();
    await vi.waitFor(() => expect(line.state.value).toBe("waiting"));
    server = await new TestServer().listen(port);
    line.connect();
    await open();
  });

  it("stays closed when it is closed", async () => {
    line.connect();
    await open();
    line.close();
    expect(line.state.value).toBe("closed");
    await vi.waitFor(() => expect(server.sockets.size).toBe(0));
    expect(line.state.value).toBe("closed");
  });

  it("can be closed while it is being made", () => {
    line.connect();
    line.close();
    expect(line.state.value).toBe("closed");
  });
});

describe("the wait between attempts", () => {
  it("doubles up to its limit and is spread over its upper half", () => {
    const middle = [0, 1, 2, 3, 10].map((attempt) => backoff(attempt, 500, 15_000, 0.5));
    expect(middle).toEqual([375, 750, 1500, 3000, 11_250]);
    expect([backoff(2, 500, 15_000, 0), backoff(2, 500, 15_000, 1)]).toEqual([1000, 2000]);
  });

  it("begins anew only after a connection has stood a while", async () => {
    const timers = vi.spyOn(globalThis, "setTimeout");
    const wait = { first: 4, longest: 100_003 };
    line = new ResponsesSocket({ ...options(server.url), lasting: true, wait });
    line.connect();
    const steady = () => timers.mock.calls.findLast((call) => call[1] === wait.longest)?.[0] as () => void;
    for (let made = 1; made <= 4; made++) {
      await vi.waitFor(() => expect([server.protocols.length, line.state.value]).toEqual([made, "open"]));
      if (made === 4) steady()();
      server.dropAll();
    }
    await vi.waitFor(() => expect(server.protocols).toHaveLength(5));
    const waits = timers.mock.calls.map((call) => call[1] ?? 0);
    timers.mockRestore();
    expect(waits.filter((one) => [3, 6, 12].includes(one))).toEqual([3, 6, 12, 3]);
  });
});

describe("a turn on the socket", () => {
  it("gets its events in order and frees the socket with the last", async () => {
    const events = answerEvents("resp_1", ["Hello ", "Ada"]);
    server.onCreate = (heard, socket) => {
      expect(heard).toEqual(request);
      server.send(socket, ...events);
    };
    const { events: got, drops, listener } = recorder();
    line.carry(request, listener);
    expect(line.busy).toBe(true);
    await vi.waitFor(() => expect(got).toEqual(events));
    expect([line.busy, drops]).toEqual([false, []]);
  });

  it("is the only one at a time", () => {
    line.carry(request, recorder().listener);
    expect(() => line.carry(request, recorder().listener)).toThrow("already carries");
  });

  it("that is refused frees the socket for the next", async () => {
    const refusal: ServerEvent = { type: "error", status: 400, error: { type: "x", code: "y", message: "No.", param: null } };
    server.onCreate = (_, socket) => server.send(socket, refusal);
    const { events, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(events).toEqual([refusal]));
    expect(line.busy).toBe(false);
  });

  it("is not ended by what is wrong with another frame", async () => {
    const all = answerEvents("resp_1", ["Hi"]);
    const refused = { type: "error", status: 404, error: { type: "x", code: "y", message: "No.", param: null } } as const;
    const errors = ["chatpager.draft", "response.cancel", "frame"].map((about) => ({ ...refused, about }));
    server.onCreate = (_, socket) => server.send(socket, ...errors, ...all);
    const { events, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(events).toEqual(all));
  });

  it("survives an error frame once it has begun", async () => {
    const all = answerEvents("resp_1", ["Hi"]);
    const error: ServerEvent = { type: "error", status: 400, error: { type: "x", code: "y", message: "No.", param: null } };
    server.onCreate = (_, socket) => server.send(socket, all[0]!, error, ...all.slice(1));
    const { events, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(events.at(-1)?.type).toBe("response.completed"));
    expect(events).toHaveLength(all.length + 1);
  });

  it("is told of a drop, once, and never of an end", async () => {
    server.onCreate = (_, socket) => {
      server.send(socket, ...answerEvents("resp_1", ["Hel", "lo"]).slice(0, 2));
      setImmediate(() => socket.terminate());
    };
    const { events, drops, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(drops).toEqual([true]));
    expect(events.map((event) => event.type)).not.toContain("response.completed");
    await open();
    expect([drops, line.busy]).toEqual([[true], false]);
  });

  it("that never left the page is told so", async () => {
    await server.close();
    const { drops, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(drops).toEqual([false]));
    server = await new TestServer().listen();
  });

  it("can be taken back before it has left, not after", async () => {
    const { listener } = recorder();
    line.carry(request, listener);
    expect([line.takeBack(), line.busy]).toEqual([true, false]);
    await open();
    line.carry(request, listener);
    expect([line.takeBack(), line.busy]).toEqual([false, true]);
  });

  it("is dropped when the connection is taken for dead", async () => {
    const { drops, listener } = recorder();
    line.carry(request, listener);
    await open();
    line.abandon();
    expect(drops).toEqual([true]);
    await open();
  });

  it("can be cancelled", async () => {
    line.connect();
    await open();
    line.cancel("resp_7");
    await vi.waitFor(() => expect(server.cancelled).toEqual(["resp_7"]));
  });

  it("is not mixed with frames that come outside it", async () => {
    const client = new NodeWebSocket(server.url);
    line = new ResponsesSocket({ ...options(server.url), lasting: true, socket: () => client as unknown as WebSocket });
    line.connect();
    await open();
    await vi.waitFor(() => expect(server.sockets.size).toBe(1));
    const strays = [JSON.stringify(answerEvents("resp_0", ["stray"])[0]), "not json"];
    const heard = new Promise<void>((resolve) => client.on("message", (frame) => String(frame) === "not json" && resolve()));
    for (const stray of strays) for (const socket of server.sockets) socket.send(stray);
    await heard;
    server.onCreate = (_, one) => server.send(one, ...answerEvents("resp_1", ["Hi"]));
    const { events, listener } = recorder();
    line.carry(request, listener);
    await vi.waitFor(() => expect(events).toEqual(answerEvents("resp_1", ["Hi"])));
  });
});

describe("the page's lines", () => {
  it("use one socket for turns that follow each other", async () => {
    const lines = new Lines(options(server.url));
    server.onCreate = (_, socket) => server.send(socket, ...answerEvents("resp_1", ["Hi"]));
    for (let turn = 0; turn < 2; turn++) {
      const { events, listener } = recorder();
      const socket = lines.carry(request, listener);
      await vi.waitFor(() => expect(events.at(-1)?.type).toBe("response.completed"));
      expect(socket.state.value).toBe("open");
    }
    expect(server.protocols).toHaveLength(1);
    lines.close();
  });

  it("give a turn sent meanwhile a socket of its own, which closes with it", async () => {
    const lines = new Lines(options(server.url));
    const [first, second] = [recorder(), recorder()];
    lines.carry(request, first.listener);
    await vi.waitFor(() => expect(lines.state.value).toBe("open"));
    server.onCreate = (_, socket) => server.send(socket, ...answerEvents("resp_2", ["Hi"]));
    const extra = lines.carry(request, second.listener);
    await vi.waitFor(() => expect(second.events.at(-1)?.type).toBe("response.completed"));
    expect([extra.state.value, lines.state.value, first.drops]).toEqual(["closed", "open", []]);
    lines.close();
    expect(first.drops).toEqual([true]);
  });

  it("give an extra socket up with a turn that is taken back", async () => {
    const lines = new Lines(options(server.url));
    lines.carry(request, recorder().listener);
    const { drops, listener } = recorder();
    const extra = lines.carry(request, listener);
    expect([extra.takeBack(), extra.state.value, drops]).toEqual([true, "closed", []]);
    lines.close();
  });

  it("do not make an extra socket again after it dropped", async () => {
    const lines = new Lines(options(server.url));
    lines.carry(request, recorder().listener);
    const { drops, listener } = recorder();
    const extra = lines.carry(request, listener);
    await vi.waitFor(() => expect(server.sockets.size).toBe(2));
    server.dropAll();
    await vi.waitFor(() => expect(drops).toEqual([true]));
    expect(extra.state.value).toBe("closed");
    lines.close();
  });
});
