import { describe, expect, it } from "vitest";
import { words } from "../src/words";
import { answers, begin, chat, eventually, finish, restarts, server, shown, start, stopServer } from "./page";
import { item } from "./server";

const locked = () => expect([chat.login.wanted.value, chat.line.value]).toEqual([true, "closed"]);
const open = () => expect([chat.login.wanted.value, chat.line.value, chat.store.listing.value]).toEqual([false, "open", "ready"]);

describe("a server that wants a key", () => {
  it("is asked for nothing else until it has one, and then shows what was to be shown", async () => {
    const { id } = server.addConversation("Kept", [item("msg_1", "user", "Hi")]);
    server.locked = true;
    await chat.login.ask();
    begin(id);
    await eventually(locked);
    expect(await chat.login.enter("wrong")).toBe(words.login.refused);
    expect([server.calls, server.protocols]).toEqual([["GET /v1/login", "POST /v1/login"], []]);
    expect(await chat.login.enter("right")).toBeNull();
    await eventually(open);
    await eventually(() => expect(shown()).toEqual([["user", "Hi", "completed"]]));
    expect([chat.store.notice.value, restarts]).toEqual([null, 0]);
  });

  it("that wanted none before, or whose login has ended, loses neither answer nor draft", async () => {
    await start();
    await chat.login.ask();
    server.onCreate = answers("resp_1", ["Hel", "lo"], 2);
    await chat.send("Hi");
    await eventually(() => expect(shown().at(-1)?.[1]).toBe("Hel"));
    chat.write("and then");
    server.locked = true;
    server.dropAll();
    await eventually(locked);
    expect([chat.login.ended, shown().at(-1)]).toEqual([true, ["assistant", "Hel", "lost"]]);
    finish("conv_1", "resp_1", "Hello Ada");
    expect(await chat.login.enter("right")).toBeNull();
    await eventually(() => expect(shown().at(-1)).toEqual(["assistant", "Hello Ada", "completed"]));
    expect([chat.store.draft.value, restarts]).toEqual(["and then", 0]);
  });

  it("is open again once another page has logged in", async () => {
    server.locked = true;
    begin(null);
    await eventually(locked);
    server.locked = false;
    chat.wake();
    await eventually(open);
  });

  it("and cannot be reached says so", async () => {
    server.locked = true;
    begin(null);
    await eventually(locked);
    const restart = await stopServer();
    expect(await chat.login.enter("right")).toBe(words.unreachable);
    await restart();
  });

  it("has the page loaded anew for another tenant, and for who logs out", async () => {
    await start();
    await chat.login.ask();
    server.tenant = "bob";
    await chat.login.enter("right");
    expect(restarts).toBe(1);
    await chat.login.leave();
    expect(restarts).toBe(2);
    await eventually(() => expect(server.locked).toBe(true));
  });
});
