import { describe, expect, it } from "vitest";
import type { Item } from "../src/wire";
import { words } from "../src/words";
import { address, answers, chat, clock, eventually, finish, forgetDrafts, server, shown, start } from "./page";
import { answerEvents, item, response } from "./server";

describe("a stored chat", () => {
  it("that is read while a turn begins and ends keeps the turn", async () => {
    const { id } = server.addConversation("Quick");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    let release = () => undefined as void;
    server.holds.set(`/v1/conversations/${id}/items`, new Promise((resolve) => (release = resolve)));
    server.onCreate = answers("resp_1", ["Hello"]);
    server.calls.length = 0;
    const reading = chat.opening.reload(id);
    await eventually(() => expect(server.calls).toContain(`GET /v1/conversations/${id}/items`));
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    release();
    await reading;
    expect(shown()).toHaveLength(2);
  });

  it("is opened with all its items, page by page", async () => {
    const items = Array.from({ length: 230 }, (_, index) => item(`msg_${index}`, "user", `message ${index}`));
    const { id } = server.addConversation("Long", items);
    await start(id);
    await eventually(() => expect(shown()).toHaveLength(230));
    expect(shown().at(-1)?.[1]).toBe("message 229");
  });

  it("that is opened is expected: the server brings its prefix back, and may fail to", async () => {
    const [first, second] = [server.addConversation("One"), server.addConversation("Two")];
    await start(first.id);
    server.failures.set(`/v1/conversations/${second.id}/prefetch`, { status: 500, body: "{}" });
    chat.opening.open(second.id);
    await eventually(() => expect(chat.ready).toBe(true));
    for (const { id } of [first, second]) {
      await eventually(() => expect(server.calls.filter((call) => call === `POST /v1/conversations/${id}/prefetch`)).toHaveLength(1));
    }
    expect(chat.store.notice.value).toBe(null);
  });

  it("that does not exist says so", async () => {
    await start("conv_999");
    await eventually(() => expect(chat.store.thread.value?.phase).toBe("missing"));
    expect(chat.ready).toBe(false);
  });

  it("that cannot be read says so and can be tried again", async () => {
    const { id } = server.addConversation("Kept", [item("msg_1", "user", "Hi")]);
    server.failures.set(`/v1/conversations/${id}/items`, { status: 502, body: "<html>bad gateway</html>" });
    await start(id);
    await eventually(() => expect(chat.store.thread.value?.phase).toBe("unreachable"));
    await chat.opening.reload(id);
    expect(shown()).toEqual([["user", "Hi", "completed"]]);
  });

  it("that may not be read says why", async () => {
    const { id } = server.addConversation("Kept");
    server.failures.set(`/v1/conversations/${id}`, { status: 403, body: '{"error":{"message":"The Host is not allowed."}}' });
    await start(id);
    await eventually(() => expect(chat.store.notice.value).toBe("The Host is not allowed."));
  });

  it("into which others spoke while a turn of this page waited is read again", async () => {
    const { id } = server.addConversation("Shared", [item("msg_1", "user", "Hi"), item("msg_2", "assistant", "Hello")]);
    await start(id);
    await eventually(() => expect(shown()).toHaveLength(2));
    server.onCreate = (request, socket) => {
      server.items.get(id)?.push(item("msg_3", "user", "Theirs"), item("msg_4", "assistant", "Yes"));
      finish(id, "resp_1", "Mine it is"); // and the question before it
      server.items.get(id)?.splice(-1, 0, item("msg_u", "user", request.input));
      server.send(socket, ...answerEvents("resp_1", ["Mine it is"]));
    };
    await chat.send("Mine");
    await eventually(() => expect(shown().map(([, text]) => text)).toEqual(["Hi", "Hello", "Theirs", "Yes", "Mine", "Mine it is"]));
    server.calls.length = 0;
    server.onCreate = (request, socket) => {
      server.items.get(id)?.push(item("msg_v", "user", request.input));
      finish(id, "resp_2", "Right");
      server.send(socket, ...answerEvents("resp_2", ["Right"]));
    };
    await chat.send("And now?");
    await eventually(() => expect(server.calls.filter((call) => call === `GET /v1/conversations/${id}/items`)).toHaveLength(1));
    expect(shown()).toHaveLength(8);
  });

  it("whose answer another page started is followed to its end", async () => {
    const session = server.addConversation("Shared", [item("msg_1", "user", "Hi")]);
    session.chatpager.active_response_id = "resp_9";
    server.responses.set("resp_9", response("resp_9", { output: [item("msg_2", "assistant", "Hel")] }));
    server.failures.set("/v1/responses/resp_9", { status: 503, body: "{}" });
    let release = () => undefined as void;
    server.holds.set("/v1/responses/resp_9", new Promise((resolve) => (release = resolve)));
    await start(session.id);
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "", "in_progress"]));
    server.calls.length = 0;
    release();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hel", "in_progress"]));
    await eventually(() => expect(server.calls.length).toBeGreaterThan(4));
    expect(server.calls.filter((call) => call.endsWith("/items"))).toEqual([]); // while it runs only the response is asked for
    session.chatpager.active_response_id = null;
    finish(session.id, "resp_9", "Hello");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
  });

  it.each(["Hel", ""])("whose answer runs, with the text %j so far, can be stopped and is followed to its end", async (text) => {
    const session = server.addConversation("Reloaded", [item("msg_1", "user", "Hi")]);
    const own = { response_id: "resp_9", state: "in_progress" as const, usage: null, cache: null, timings: null, error: null };
    const running: Item = { ...item("msg_resp_9", "assistant", text, own), status: "in_progress" };
    server.items.get(session.id)!.push(running);
    session.chatpager.active_response_id = "resp_9";
    server.responses.set("resp_9", response("resp_9", text === "" ? {} : { output: [running] }));
    await start(session.id);
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", text, "in_progress"]));
    chat.stop();
    await eventually(() => expect(server.cancelled).toEqual(["resp_9"]));
    server.items.get(session.id)!.pop();
    session.chatpager.active_response_id = null;
    finish(session.id, "resp_9", "Hello");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    await eventually(() => expect(chat.ready).toBe(true));
    expect(shown()).toHaveLength(2);
  });

  it("keeps the draft written in it", async () => {
    const [one, two] = [server.addConversation("One"), server.addConversation("Two")];
    await start(one.id);
    chat.write("half a thought");
    chat.opening.open(two.id);
    expect(chat.store.draft.value).toBe("");
    chat.opening.open(one.id);
    expect(chat.store.draft.value).toBe("half a thought");
  });

  it("is renamed with the rest of its metadata kept, and not to nothing", async () => {
    const session = server.addConversation("Old");
    session.metadata = { colour: "blue" };
    await start(session.id);
    await eventually(() => expect(chat.store.title.value).toBe("Old"));
    await chat.sessions.rename(chat.store.sessions.value[0]!, "  New ");
    await chat.sessions.rename(chat.store.sessions.value[0]!, "   ");
    expect([chat.store.title.value, session.metadata]).toEqual(["New", { colour: "blue", title: "New" }]);
  });

  it("is gone after it was deleted, with its draft, also when it was gone before", async () => {
    const { id } = server.addConversation("Old");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    chat.write("draft");
    server.conversations.delete(id);
    await deleted(id);
    expect([chat.store.currentId.value, chat.store.sessions.value, chat.store.thread.value]).toEqual([null, [], undefined]);
    expect([address, chat.store.notice.value]).toEqual([[null], null]);
    chat.opening.open(id);
    expect(chat.store.draft.value).toBe("");
  });

  it("stays when it could not be deleted", async () => {
    const { id } = server.addConversation("Old");
    await start();
    server.failures.set(`/v1/conversations/${id}`, { status: 500, body: '{"error":{"message":"The disk is full."}}' });
    await deleted(id);
    expect([chat.store.sessions.value.length, chat.store.notice.value]).toEqual([1, "The disk is full."]);
  });

  it("stays, and its answer goes on, when somebody spoke in it after it was deleted here", async () => {
    const { id } = server.addConversation("Old");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    chat.deleting.doom(chat.store.sessions.value[0]!);
    clock.now += 8_000;
    server.idle = 3_000;
    await eventually(() => expect(chat.store.rows.value.map((one) => one.id)).toEqual([id]));
    expect([chat.store.notice.value, [...chat.store.running.value], server.cancelled]).toEqual([words.usedAgain, [id], []]);
  });

  it("is let go of when it is deleted in the middle of an answer: the server ends that", async () => {
    const { id } = server.addConversation("Old");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    await deleted(id);
    expect([chat.store.currentId.value, chat.store.threads.value.size, chat.store.running.value.size]).toEqual([null, 0, 0]);
  });
});

describe("a chat that another page deletes", () => {
  it("leaves what is being written in it as the draft of a new chat", async () => {
    const { id } = server.addConversation("Old");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    chat.write("half a thought");
    server.conversations.delete(id);
    forgetDrafts(); // the other page does
    chat.heard(id);
    await eventually(() => expect(chat.store.thread.value?.phase).toBe("missing"));
    expect([chat.store.draft.value, chat.store.notice.value]).toEqual(["", words.rescued]);
    chat.opening.go(null);
    expect(chat.store.draft.value).toBe("half a thought");
  });

  it("on another device is seen to be gone", async () => {
    const { id } = server.addConversation("Old");
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    server.conversations.delete(id);
    await chat.look();
    expect([chat.store.thread.value?.phase, chat.store.notice.value, chat.store.sessions.value]).toEqual(["missing", null, []]);
  });
});

describe("what the page holds", () => {
  it("has a bound, and loses nothing that was written or goes on", async () => {
    const made = Array.from({ length: 30 }, (_, index) => server.addConversation(`Chat ${index}`).id);
    const [running = "", refused = ""] = made;
    await start(running);
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    chat.opening.open(refused);
    await eventually(() => expect(chat.ready).toBe(true));
    const error = { type: "server_error", code: "server_is_overloaded", message: "Full.", param: null };
    server.onCreate = (_, socket) => server.send(socket, { type: "error", status: 503, error });
    await chat.send("And me?");
    await eventually(() => expect(shown()).toEqual([["user", "And me?", "refused"]]));
    for (const id of made.slice(2)) chat.opening.open(id);
    expect([chat.store.threads.value.size, chat.store.threads.value.has(running), chat.store.threads.value.has(refused)]).toEqual([24, true, false]);
    chat.opening.open(refused);
    await eventually(() => expect(shown()).toEqual([["user", "And me?", "refused"]]));
  });
});

/** The row of this conversation is deleted for good. */
async function deleted(id: string): Promise<void> {
  chat.deleting.doom(chat.store.sessions.value.find((one) => one.id === id)!);
  await chat.deleting.commit();
}

describe("the list", () => {
  it("is read page by page", async () => {
    for (let made = 0; made < 60; made++) server.addConversation(`Chat ${made}`);
    await start();
    expect(chat.store.sessions.value).toHaveLength(50);
    await chat.sessions.list(true);
    expect(chat.store.sessions.value.map((one) => one.chatpager.title)).toEqual(
      Array.from({ length: 60 }, (_, index) => `Chat ${59 - index}`),
    );
    expect(chat.store.cursor.value).toBeNull();
  });

  it("of what was found is read page by page too", async () => {
    for (let made = 0; made < 60; made++) server.addConversation(`Chat ${made}`);
    await start();
    await chat.sessions.search("Chat");
    expect([chat.store.rows.value.length, chat.store.foundCursor.value]).toEqual([50, "conv_11"]);
    await chat.sessions.search("Chat", true);
    expect([chat.store.rows.value.length, chat.store.foundCursor.value]).toEqual([60, null]);
    await chat.sessions.search("");
    expect(chat.store.found.value).toBeNull();
  });

  it("keeps older rows when the newest page is read again, and drops what is gone from it", async () => {
    for (let made = 0; made < 60; made++) server.addConversation(`Chat ${made}`);
    await start();
    await chat.sessions.list(true);
    server.conversations.delete("conv_60");
    await chat.sessions.list();
    expect(chat.store.sessions.value).toHaveLength(59);
    expect(chat.store.cursor.value).toBeNull();
  });

  it("says when it cannot be read", async () => {
    server.failures.set("/v1/conversations", { status: 500, body: "{}" });
    void chat.sessions.list();
    await eventually(() => expect(chat.store.listing.value).toBe("unreachable"));
    server.failures.set("/v1/conversations", { status: 500, body: "{}" });
    await chat.sessions.list(true);
    expect(chat.store.notice.value).toBe(words.notOurs(500));
  });
});
