import { describe, expect, it } from "vitest";
import { words } from "../src/words";
import { address, answers, chat, eventually, finish, lines, server, shown, start, startAgain, startInOne, unsentOf } from "./page";
import { cache, item, response, timings, usage } from "./server";

describe("a new chat", () => {
  it("is created by its first message, listed, and put in the address", async () => {
    await start();
    server.onCreate = (request, socket) => {
      server.conversations.get(request.conversation)!.chatpager.title = request.input;
      answers("resp_1", ["Hello ", "Ada"])(request, socket);
    };
    await chat.send("My name is Ada.");
    await eventually(() => expect(shown()).toEqual([
      ["user", "My name is Ada.", "completed"],
      ["assistant", "Hello Ada", "completed"],
    ]));
    expect(address).toEqual(["conv_1"]);
    await eventually(() => expect(chat.store.title.value).toBe("My name is Ada."));
    expect(chat.store.thread.value?.messages[1]?.receipt).toEqual({ usage, cache, timings });
  });

  it("keeps the message in the field when the server makes none", async () => {
    await start();
    server.failures.set("/v1/conversations", { status: 503, body: '{"error":{"message":"The queue is full."}}' });
    chat.write("My name is Ada.");
    await chat.send("My name is Ada.");
    expect([chat.store.notice.value, chat.store.draft.value, chat.store.currentId.value]).toEqual(["The queue is full.", "My name is Ada.", null]);
    expect(chat.ready).toBe(true);
  });

  it("takes no second message while the first is on its way", async () => {
    await start();
    await Promise.all([chat.send("one"), chat.send("two")]);
    expect(server.conversations.size).toBe(1);
    await chat.send("three");
    expect(shown()).toHaveLength(2);
  });

  it("leaves alone what else is being written", async () => {
    await start();
    server.onCreate = answers("resp_1", ["Hello"]);
    chat.write("half a thought");
    await chat.send("What is chatpager?"); // an example, not what the field holds
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(chat.store.draft.value).toBe("half a thought");
    server.onCreate = answers("resp_2", ["More"]);
    await chat.send("Continue.");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "More", "completed"]));
    expect(chat.store.draft.value).toBe("half a thought");
  });

  it("is not made of white space", async () => {
    await start();
    await chat.send("  \n ");
    expect(server.conversations.size).toBe(0);
  });

  it("goes on in its own chat when the reader has opened another one meanwhile", async () => {
    const other = server.addConversation("Other");
    await start();
    const sending = chat.send("Hi");
    chat.opening.open(other.id);
    await sending;
    expect([chat.store.currentId.value, address]).toEqual([other.id, []]);
    expect(chat.store.running.value).toEqual(new Set(["conv_2"]));
  });
});

describe("stopping", () => {
  it("asks the server at once when the answer runs", async () => {
    await start();
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    chat.stop();
    chat.stop();
    await eventually(() => expect(server.cancelled).toEqual(["resp_1"]));
    expect(chat.store.live.value?.stopping).toBe(true);
  });

  it("reaches a turn that is not acknowledged yet as soon as it is", async () => {
    await start();
    let go = () => undefined as void;
    server.onCreate = (request, socket) => (go = () => answers("resp_1", ["Hel"], 1)(request, socket));
    await chat.send("Hi");
    chat.stop();
    await eventually(() => expect(go).not.toThrow());
    await eventually(() => {
      go();
      expect(server.cancelled).toContain("resp_1");
    });
  });

  it("takes back a turn that has not left the page", async () => {
    await start();
    const { id } = server.addConversation();
    chat.opening.open(id);
    await eventually(() => expect(chat.ready).toBe(true));
    lines.close();
    await chat.send("Hi");
    chat.stop();
    expect(shown()).toEqual([["user", "Hi", "refused"]]);
  });

  it("takes effect at once on a message that waits on the server for another's answer", async () => {
    await startInOne();
    const cancelled = { message: "it was cancelled before it had begun", type: "invalid_request_error", param: "stream_id", code: "response_cancelled" };
    server.onWithdraw = (socket) => server.send(socket, { type: "error", status: 409, error: cancelled });
    await chat.send("Hi");
    chat.stop();
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]?.error).toBe(words.takenBack);
    await eventually(() => expect(chat.ready).toBe(true));
  });

  it("is not what leaving the page does to a message that waits for a connection: the next page offers to send it", async () => {
    await startInOne();
    lines.close();
    await chat.send("Hi");
    chat.write("more");
    startAgain("conv_1");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.draft.value).toBe("more");
  });

  it("goes by a call when another page started the answer, and can fail", async () => {
    const session = server.addConversation("Shared", [item("msg_1", "user", "Hi")]);
    session.chatpager.active_response_id = "resp_9";
    server.responses.set("resp_9", response("resp_9"));
    await start(session.id);
    await eventually(() => expect(chat.store.live.value?.responseId).toBe("resp_9"));
    lines.close(); // a page that just asks on its socket to be told the answer would cancel it there
    server.failures.set("/v1/responses/resp_9/cancel", { status: 503, body: '{"error":{"message":"Busy."}}' });
    chat.stop();
    await eventually(() => expect([chat.store.notice.value, chat.store.live.value?.stopping]).toEqual(["Busy.", false]));
    chat.stop();
    await eventually(() => expect(server.cancelled).toEqual(["resp_9"]));
    finish(session.id, "resp_9", "Hello");
    session.chatpager.active_response_id = null;
    await eventually(() => expect(chat.store.live.value).toBeNull());
  });

  it("does nothing where nothing runs", async () => {
    await start();
    chat.stop();
    expect(server.cancelled).toEqual([]);
  });
});

describe("two chats at once", () => {
  it("are answered side by side", async () => {
    await start();
    server.onCreate = answers("resp_1", ["One"], 2);
    await chat.send("first");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("One"));
    chat.opening.open(null);
    server.onCreate = answers("resp_2", ["Two"]);
    await chat.send("second");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Two", "completed"]));
    expect(chat.store.running.value).toEqual(new Set(["conv_1"]));
    chat.opening.open("conv_1");
    expect(shown().at(-1)).toEqual(["assistant", "One", "in_progress"]);
  });
});

describe("a refused message", () => {
  const error = { type: "invalid_request_error", code: "context_length_exceeded", message: "Too long.", param: "input" };
  const tooLong = { type: "error", status: 400, error } as const;

  it("that was a chat's first is a draft again, and leaves no empty chat", async () => {
    await start();
    server.onCreate = (_, socket) => {
      chat.keep(); // nobody sees the page just now
      server.send(socket, tooLong);
    };
    chat.opening.wish({ seed: 7 });
    chat.write("Hi");
    await chat.send("Hi");
    await eventually(() => expect(chat.store.notice.value).toBe("Not sent: Too long."));
    expect(unsentOf("conv_1")).toEqual([]);
    expect([chat.store.currentId.value, chat.store.draft.value, chat.store.wishes.value]).toEqual([null, "Hi", { seed: 7 }]);
    expect([address, chat.store.sessions.value, [...server.conversations]]).toEqual([["conv_1", null], [], []]);
    server.onCreate = answers("resp_1", ["Hello"]);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    server.onCreate = (_, socket) => server.send(socket, tooLong);
    await chat.send("And now?");
    await eventually(() => expect(shown().at(-1)).toEqual(["user", "And now?", "refused"]));
  });

  it("that was a chat's first stays where something else is written meanwhile", async () => {
    await start();
    let refuse = () => {};
    server.onCreate = (_, socket) => (refuse = () => server.send(socket, tooLong));
    await chat.send("Hi");
    chat.write("More");
    await eventually(() => {
      refuse();
      expect(shown()).toEqual([["user", "Hi", "refused"]]);
    });
    expect([chat.store.draft.value, chat.store.currentId.value]).toEqual(["More", "conv_1"]);
  });

  it("stays with the server's reason and can be edited", async () => {
    await startInOne();
    server.onCreate = (_, socket) => server.send(socket, tooLong);
    await chat.send("Hi");
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "refused"]]));
    expect(chat.store.thread.value?.messages[0]?.error).toBe("Too long.");
    startAgain("conv_1");
    await eventually(() => expect(chat.ready).toBe(true));
    expect(chat.store.thread.value?.messages).toMatchObject([{ text: "Hi", state: "refused", error: "Too long.", unsure: false }]);
    chat.write("More");
    chat.retake(chat.store.thread.value!.messages[0]!.key, "Hi", "edit");
    expect([shown(), chat.store.draft.value]).toEqual([[], "Hi\n\nMore"]);
  });
});
