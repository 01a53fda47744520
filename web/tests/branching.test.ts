import { describe, expect, it } from "vitest";
import { Api } from "../src/api";
import { Branching } from "../src/branching";
import { membersOf, versionsAt } from "../src/families";
import { answers, chat, eventually, finish, server, shown, start } from "./page";
import { answerEvents, item, response } from "./server";

async function opened() {
  const { id } = server.addConversation("Ada", [
    item("msg_1", "user", "one"),
    item("msg_2", "assistant", "first", { response_id: "resp_1", state: "completed", usage: null, cache: null, timings: null, error: null }),
    item("msg_3", "user", "two"),
    item("msg_4", "assistant", "second", { response_id: "resp_2", state: "completed", usage: null, cache: null, timings: null, error: null }),
  ]);
  await start(id);
  await eventually(() => expect(chat.ready).toBe(true));
  server.onCreate = answers("resp_9", ["anew"]);
  return id;
}

describe("a branch", () => {
  it("has what came before an edited message, and goes on with the new one", async () => {
    const root = await opened();
    await chat.branch("msg_3", "three");
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "anew", "completed"]));
    expect(shown().map(([, text]) => text)).toEqual(["one", "first", "three", "anew"]);
    expect(server.forks).toEqual([[root, "resp_1"]]);
    const id = chat.store.currentId.value!;
    expect(versionsAt(chat.store.family.value, id, 2)).toEqual([root, id]);
    expect(chat.store.rows.value).toHaveLength(1);
  });

  it("answers again what was asked", async () => {
    const root = await opened();
    await chat.branch("msg_4", null);
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "anew", "completed"]));
    expect(shown().map(([, text]) => text)).toEqual(["one", "first", "two", "anew"]);
    expect(versionsAt(chat.store.family.value, chat.store.currentId.value!, 3)).toEqual([root, chat.store.currentId.value]);
    expect(versionsAt(chat.store.family.value, chat.store.currentId.value!, 2)).toEqual([]);
  });

  it("of the first message is a conversation of its own in the same family", async () => {
    const root = await opened();
    await chat.branch("msg_1", "zero");
    await eventually(() => expect(shown().map(([, text]) => text)).toEqual(["zero", "anew"]));
    expect(server.forks).toEqual([]);
    expect(versionsAt(chat.store.family.value, chat.store.currentId.value!, 0)).toEqual([root, chat.store.currentId.value]);
    expect(chat.store.title.value).toBe("Ada");
  });

  it("counts no answer that ended before it said anything, and gives it again in its place", async () => {
    const cut = { response_id: "resp_2", state: "cancelled" as const, usage: null, cache: null, timings: null, error: null };
    const { id } = server.addConversation("Ada", [item("msg_1", "user", "one", cut), item("msg_2", "user", "two")]);
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = answers("resp_9", ["anew"]);
    expect(shown().map(([, text]) => text)).toEqual(["one", "", "two"]);
    await chat.branch("msg_2", "three");
    await eventually(() => expect(shown().map(([, text]) => text)).toEqual(["one", "three", "anew"]));
    expect(membersOf(chat.store.sessions.value.find((one) => one.id === id)!)[1]?.at).toBe(1);
    expect(chat.store.version(chat.store.rows.value[0]!)).toMatchObject({ place: 2, of: 2 });
    chat.opening.go(id);
    await eventually(() => expect(chat.ready).toBe(true));
    expect(chat.store.version(chat.store.rows.value[0]!)).toEqual({ id, place: 1, of: 2 });
    await chat.branch("resp_2-answer", null);
    await eventually(() => expect(shown().map(([, text]) => text)).toEqual(["one", "anew"]));
  });

  it("that the server refuses leaves all as it was", async () => {
    const root = await opened();
    server.failures.set(`/v1/conversations/${root}/fork`, { status: 409, body: '{"error":{"message":"Too many."}}' });
    await chat.branch("msg_3", "three");
    expect([chat.store.notice.value, chat.store.currentId.value, chat.ready]).toEqual(["Too many.", root, true]);
  });
});

it("branches that two pages make at the same moment are both listed", async () => {
  const root = await opened();
  const pages = ["three", "four"].map((text) => ({ text, page: new Branching(chat.store, new Api(server.root)) }));
  let answer = () => {};
  server.holds.set(`/v1/conversations/${root}`, new Promise((resolve) => (answer = resolve)));
  server.calls.length = 0;
  const made = pages.map(({ text, page }) => page.branch(chat.store.thread.value!, "msg_3", text));
  await eventually(() => expect(server.calls.filter((call) => call === `GET /v1/conversations/${root}`)).toHaveLength(2));
  answer(); // both have read the root as it was
  const ids = (await Promise.all(made)).flat().map((one) => one.id);
  const listed = membersOf(server.conversations.get(root)!).map((one) => one.id);
  expect(listed.toSorted()).toEqual([root, ...ids].toSorted());
});

it("a branch that cannot be listed with its family is unmade", async () => {
  const root = await opened();
  server.failures.set(`/v1/conversations/${root}`, { status: 503, body: '{"error":{"message":"Busy."}}' });
  await chat.branch("msg_3", "three");
  expect([chat.store.notice.value, chat.store.currentId.value, [...server.conversations.keys()]]).toEqual(["Busy.", root, [root]]);
});

describe("a turn that runs elsewhere", () => {
  it("is told from its beginning on the socket", async () => {
    const { id } = server.addConversation("Ada", [item("msg_1", "user", "one")]);
    server.conversations.get(id)!.chatpager.active_response_id = "resp_5";
    server.responses.set("resp_5", response("resp_5"));
    server.onResume = (request, socket) => {
      server.send(socket, { type: "chatpager.resumed", response_id: "resp_5", recovered: true, starting_after: request.starting_after, status: "in_progress" });
      server.send(socket, ...answerEvents("resp_5", ["Hel", "lo"]));
      server.items.get(id)!.push(item("msg_2", "assistant", "Hello"));
      server.conversations.get(id)!.chatpager.active_response_id = null;
    };
    await start(id);
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(chat.ready).toBe(true);
  });

  it("goes on behind what was heard when the socket drops", async () => {
    await start();
    const events = answerEvents("resp_1", ["Hel", "lo"]);
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    const asked: number[] = [];
    server.onResume = (request, socket) => {
      asked.push(request.starting_after);
      server.send(socket, { type: "chatpager.resumed", response_id: "resp_1", recovered: true, starting_after: 1, status: "in_progress" });
      finish(chat.store.currentId.value!, "resp_1", "Hello"); // the page reads what is stored when the answer has ended
      server.send(socket, ...events.slice(2));
    };
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    server.dropAll();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello", "completed"]));
    expect(asked).toEqual([1]);
  });
});
