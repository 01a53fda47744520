import { effect } from "@preact/signals";
import { describe, expect, it } from "vitest";
import { words } from "../src/words";
import { answers, chat, clock, eventually, finish, lines, server, shown, start, startInOne, stopServer, storedState } from "./page";
import { answerEvents, item, usage } from "./server";

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

  it("before the turn is acknowledged asks what the server has: nothing", async () => {
    await startInOne();
    server.onCreate = (_, socket) => socket.terminate();
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]?.error).toBe(words.lostBeforeStored);
    server.onCreate = answers("resp_1", ["Hello"]);
    await eventually(() => expect(chat.ready).toBe(true));
    chat.retake(chat.store.thread.value!.messages[0]!.key, "Hi", "send");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(shown()).toHaveLength(2);
  });

  it("and a message sent again while the page still reads up: its answer is not taken for a lost one", async () => {
    await startInOne();
    server.onCreate = (_, socket) => socket.terminate();
    const items = "/v1/conversations/conv_1/items";
    let read = () => {};
    const stop = effect(() => {
      if (shown()[0]?.[2] === "refused") server.holds.set(items, new Promise((resolve) => (read = resolve)));
    });
    await chat.send("Hi");
    await eventually(() => expect(shown()[0]?.[2]).toBe("refused"));
    await eventually(() => expect(server.calls.filter((call) => call === `GET ${items}`).length).toBeGreaterThan(1));
    stop();
    await eventually(() => expect(chat.ready).toBe(true));
    let say = () => {};
    server.onCreate = (request, socket) => {
      answers("resp_1", [], 0)(request, socket); // stored, and nothing said of it yet
      say = () => server.send(socket, ...answerEvents("resp_1", ["Hello"]));
    };
    chat.retake(chat.store.thread.value!.messages[0]!.key, "Hi", "send");
    await eventually(() => expect(server.responses.has("resp_1")).toBe(true));
    read();
    for (let i = 0; i < 5; i++) await fetch(`${server.root}health`);
    say();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(shown()).toHaveLength(2);
  });

  it("before the turn is acknowledged asks what the server has: the whole turn", async () => {
    await start();
    server.onCreate = (request, socket) => {
      answers("resp_1", ["Hello"], 0)(request, socket);
      finish(request.conversation, "resp_1", "Hello");
      socket.terminate();
    };
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([
      ["user", "Hi", "completed"],
      ["assistant", "Hello", "completed"],
    ]));
  });

  it("before the turn is acknowledged, and a server that will not tell, refuses it with the server's reason", async () => {
    await startInOne();
    server.onCreate = (request, socket) => {
      server.failures.set(`/v1/conversations/${request.conversation}`, { status: 403, body: '{"error":{"message":"The Host is not allowed."}}' });
      socket.terminate();
    };
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]?.error).toBe("The Host is not allowed.");
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

  it("before the turn is acknowledged, in a chat that is gone, refuses it", async () => {
    await startInOne();
    server.onCreate = (request, socket) => {
      server.conversations.delete(request.conversation);
      socket.terminate();
    };
    await chat.send("Hi");
    await eventually(() => expect(chat.store.thread.value?.phase).toBe("missing"));
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
    clock.now = 60_000;
    await eventually(() => {
      chat.watch();
      expect(shown()).toContainEqual(["user", "Hi", "refused"]);
    });
  });

  it("is given up when it never acknowledged the turn", async () => {
    await startInOne();
    await chat.send("Hi");
    await eventually(() => expect(server.sockets.size).toBe(1));
    clock.now = 20_000;
    chat.watch();
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
  });
});
