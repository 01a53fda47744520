/** What is being written: the server is told of it in pauses, and only where that saves something. */
import { describe, expect, it } from "vitest";
import { answers, chat, eventually, server, start } from "./page";

const long = "The quick brown fox jumps over the lazy dog. ".repeat(4);

describe("a long message", () => {
  it("is told while it is being written, once for each pause", async () => {
    await start();
    for (let end = 100; end <= long.length; end++) chat.write(long.slice(0, end));
    await eventually(() => expect(server.drafts).toEqual([[null, long]]));
    chat.write(`${long}More.`);
    await eventually(() => expect(server.drafts).toHaveLength(2));
    expect(server.drafts[1]).toEqual([null, `${long}More.`]);
  });

  it("names its conversation", async () => {
    const { id } = server.addConversation("A chat", []);
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    chat.write(long);
    await eventually(() => expect(server.drafts).toEqual([[id, long]]));
  });

  it("that is deleted again is taken back", async () => {
    await start();
    chat.write(long);
    await eventually(() => expect(server.drafts).toHaveLength(1));
    chat.write("");
    await eventually(() => expect(server.drafts.at(-1)).toEqual([null, ""]));
  });

  it("is not told while another is being answered", async () => {
    const { id } = server.addConversation("A chat", []);
    await start(id);
    await eventually(() => expect(chat.ready).toBe(true));
    server.onCreate = answers("resp_1", ["a", "b"], 2);
    await chat.send("Hello");
    await eventually(() => expect(chat.store.live.value).not.toBeNull());
    chat.write(long);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(server.drafts).toEqual([]);
  });
});

it("a short message is not told before it is sent", async () => {
  await start();
  chat.write("Hello");
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(server.drafts).toEqual([]);
});
