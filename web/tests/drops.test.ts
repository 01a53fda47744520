import { describe, expect, it } from "vitest";
import { words } from "../src/words";
import { answers, chat, clock, eventually, finish, lines, server, shown, start, startAgain, startInOne, stopServer, storedState } from "./page";
import { item, usage } from "./server";

describe("a socket that drops", () => {
  it("in the middle of an answer never makes it look finished, and the answer is read to its end", async () => {
    await start();
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    server.dropAll();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hel", "lost"]));
    finish("conv_1", "resp_1", "Hello Ada");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello Ada", "completed"]));
    expect(chat.store.thread.value?.messages[1]?.receipt?.usage).toEqual(usage);
    await eventually(() => expect(chat.ready).toBe(true));
  });

  it("together with its answer leaves it interrupted", async () => {
    await start();
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    server.responses.clear();
    server.items.get("conv_1")?.push(item("msg_2", "assistant", "Hel", { ...storedState, state: "interrupted" }));
    server.dropAll();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hel", "interrupted"]));
  });

  it("before the turn is acknowledged has it sent again as the same turn, until the server has it", async () => {
    await startInOne();
    const keys: string[] = [];
    server.onCreate = (request, socket) => {
      keys.push(request.idempotency_key);
      if (keys.length < 3) return socket.terminate();
      answers("resp_1", ["Hello"])(request, socket);
      finish("conv_1", "resp_1", "Hello"); // what was sent again is read again when it has ended
    };
    await chat.send("Hi");
    expect(shown()[0]).toEqual(["user", "Hi", "sending"]);
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect([shown().length, keys.length, new Set(keys).size]).toEqual([2, 3, 1]);
    await eventually(() => expect(chat.ready).toBe(true));
    await chat.send("Hi");
    await eventually(() => expect(new Set(keys).size).toBe(2)); // said anew it is another turn
  });

  it("twice, before the turn is acknowledged and after, doubles nothing", async () => {
    await startInOne();
    let sent = 0;
    server.onCreate = (request, socket) => {
      sent++;
      if (sent === 2) answers("resp_1", ["Hel", "lo"], 2)(request, socket);
      if (sent === 2) finish("conv_1", "resp_1", "Hello");
      setTimeout(() => socket.terminate(), sent === 2 ? 20 : 0);
    };
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([
      ["user", "Hi", "completed"],
      ["assistant", "Hello", "completed"],
    ]));
    expect(sent).toBe(2);
  });

  it("before the turn is acknowledged, and one who stops it meanwhile: it is refused, and is the same turn when it is tried again", async () => {
    await startInOne();
    const keys: string[] = [];
    server.onCreate = (request, socket) => {
      keys.push(request.idempotency_key);
      socket.terminate();
    };
    await chat.send("Hi");
    await eventually(() => expect(keys.length).toBeGreaterThan(0));
    chat.stop();
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]).toMatchObject({ error: words.lostBeforeStored, unsure: true });
    await eventually(() => expect(chat.ready).toBe(true));
    const conflict = { message: "Taken.", type: "invalid_request_error", param: null, code: "idempotency_conflict" };
    server.onCreate = (request, socket) => {
      keys.push(request.idempotency_key); // the first was stored later than the page waited, with settings that have changed since
      server.items.get("conv_1")?.push(item("msg_1", "user", "Hi"));
      finish("conv_1", "resp_1", "Hello");
      server.send(socket, { type: "error", status: 409, error: conflict });
    };
    chat.retake(chat.store.thread.value!.messages[0]!.key, "Hi", "send");
    await eventually(() => expect(shown()).toEqual([
      ["user", "Hi", "completed"],
      ["assistant", "Hello", "completed"],
    ]));
    expect(new Set(keys).size).toBe(1);
  });

  it("and a page that ends before the turn is acknowledged: the next one offers to send the same turn again", async () => {
    await startInOne();
    const keys: string[] = [];
    server.onCreate = (request) => void keys.push(request.idempotency_key);
    await chat.send("Hi");
    await eventually(() => expect(keys).toHaveLength(1));
    startAgain("conv_1");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = (request, socket) => {
      keys.push(request.idempotency_key);
      answers("resp_1", ["Hello"])(request, socket);
    };
    chat.retake(chat.store.thread.value!.messages[0]!.key, "Hi", "send");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect([keys[1], shown().length]).toEqual([keys[0], 2]);
    finish("conv_1", "resp_1", "Hello");
    startAgain("conv_1");
    await eventually(() => expect(chat.ready).toBe(true));
    expect(shown()).toHaveLength(2);
  });

  it("before the turn is acknowledged, and a server that refuses it then, says the server's reason", async () => {
    await startInOne();
    const error = { message: "The queue is full.", type: "server_error", param: null, code: "server_is_overloaded" };
    let sent = 0;
    server.onCreate = (_, socket) => (++sent === 1 ? socket.terminate() : server.send(socket, { type: "error", status: 503, error }));
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]).toMatchObject({ error: "The queue is full.", unsure: true });
  });

  it("before anything was sent refuses the message", async () => {
    const { id } = server.addConversation();
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    lines.close();
    const restart = await stopServer();
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]?.error).toBe(words.noConnection);
    await restart();
  });

  it("before the turn is acknowledged, in a chat that is gone, keeps all that was written as the draft of a new one", async () => {
    await startInOne();
    const error = { message: "No such thing.", type: "invalid_request_error", param: "conversation", code: "conversation_not_found" };
    let sent = 0;
    server.onCreate = (request, socket) => {
      server.conversations.delete(request.conversation);
      if (++sent === 1) socket.terminate();
      else server.send(socket, { type: "error", status: 404, error });
    };
    await chat.send("Hi");
    chat.write("and more");
    await eventually(() => expect(chat.store.thread.value?.phase).toBe("missing"));
    expect([chat.store.draft.value, chat.store.notice.value]).toEqual(["", words.rescued]);
    chat.opening.open(null);
    expect(chat.store.draft.value).toBe("Hi\n\nand more");
  });

  it("before anything was sent, in a chat that cannot be deleted meanwhile, still has it sent", async () => {
    await startInOne();
    server.onCreate = answers("resp_1", ["Hello"]);
    server.failures.set("/v1/conversations/conv_1", { status: 500, body: "" });
    lines.close();
    void chat.send("Hi");
    chat.deleting.doom(chat.store.sessions.value[0]!);
    await chat.deleting.commit();
    chat.opening.open("conv_1");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
  });

  it("is shown as being away until a connection stands again, and then everything is read again", async () => {
    await start();
    const restart = await stopServer();
    await eventually(() => expect(chat.store.away.value).toBe(true));
    expect(chat.ready).toBe(false);
    await restart();
    server.addConversation("Made elsewhere");
    chat.wake();
    await eventually(() => expect(chat.store.sessions.value.map((one) => one.chatpager.title)).toEqual(["Made elsewhere"]));
    await eventually(() => expect(chat.store.away.value).toBe(false));
  });
});

describe("a server that ails", () => {
  it("is asked again until it is well", async () => {
    server.health = "stalled";
    await start();
    await eventually(() => expect([chat.store.server.value, chat.store.ailing.value]).toEqual(["stalled", true]));
    server.health = "ok";
    server.calls.length = 0;
    chat.watch(); // a page that nobody sees does not ask
    await chat.sessions.list();
    expect(server.calls).toEqual(["GET /v1/conversations"]);
    await chat.look();
    await eventually(() => expect(chat.store.ailing.value).toBe(false));
  });

  it("or drains while the connection stands is told of, and nothing is sent to it", async () => {
    await startInOne();
    server.health = "draining";
    await chat.look();
    await eventually(() => expect([chat.store.draining.value, chat.store.away.value, chat.ready]).toEqual([true, false, false]));
    server.health = "ok";
    await chat.look();
    await eventually(() => expect(chat.ready).toBe(true));
  });
});

describe("a silent socket", () => {
  async function silent() {
    await start();
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    server.calls.length = 0;
  }
  const asked = () => server.calls.filter((call) => call === "GET /v1/responses/resp_1").length;

  it("is left alone for a while", async () => {
    await silent();
    clock.now = 19_999;
    chat.watch();
    expect(asked()).toBe(0);
  });

  it("is believed while the server says that the turn runs", async () => {
    await silent();
    clock.now = 20_000;
    chat.watch();
    chat.watch();
    await chat.sessions.askHealth();
    await eventually(() => expect(asked()).toBe(1));
    clock.now = 20_001;
    chat.watch();
    expect([asked(), shown().at(-1)?.[2]]).toEqual([1, "in_progress"]);
  });

  it("is given up when the turn has ended without it", async () => {
    await silent();
    finish("conv_1", "resp_1", "Hello");
    clock.now = 20_000;
    chat.watch();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
  });

  it("is believed while the message waits there for another's answer", async () => {
    await startInOne();
    await chat.send("Hi");
    await eventually(() => expect(server.sockets.size).toBe(1));
    const session = server.conversations.get("conv_1")!;
    session.chatpager.active_response_id = "resp_9";
    server.items.get("conv_1")?.push(item("msg_1", "user", "Theirs"));
    server.calls.length = 0;
    clock.now = 20_000;
    chat.watch();
    await eventually(() => expect(server.calls).toContain("GET /v1/conversations/conv_1/items"));
    await chat.sessions.askHealth();
    expect(shown()[0]).toEqual(["user", "Hi", "sending"]);
    session.chatpager.active_response_id = null;
    server.onCreate = answers("resp_1", ["Hello"]);
    clock.now = 60_000;
    await eventually(() => {
      chat.watch();
      expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]);
    });
  });

  it("is given up when it never acknowledged the turn, which is sent again", async () => {
    await startInOne();
    await chat.send("Hi");
    await eventually(() => expect(server.sockets.size).toBe(1));
    server.onCreate = answers("resp_1", ["Hello"]);
    clock.now = 20_000;
    chat.watch();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(shown()).toHaveLength(2);
  });
});
