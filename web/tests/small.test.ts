import { afterEach, describe, expect, it, vi } from "vitest";
import { groupByAge } from "../src/ages";
import { sayable, spoken } from "../src/announce";
import { Api } from "../src/api";
import { ApiError, reasonOf } from "../src/calls";
import { Drafts } from "../src/drafts";
import { Inbox, inTurn, nextFrame, paced } from "../src/frames";
import { parseRoute, routeOf } from "../src/route";
import type { ServerEvent } from "../src/events";
import type { Conversation } from "../src/wire";
import { words } from "../src/words";
import { answerEvents } from "./server";
import { memoryStorage } from "./storage";

describe("the address", () => {
  it("names the open chat and is read back", () => {
    for (const id of ["conv_a1B2-c3", null]) expect(parseRoute(routeOf(id))).toBe(id);
  });

  it.each(["", "#", "#/", "#/c/", "#/c/a/b", "#/c/%3Cscript%3E", "#/admin"])("%j names none", (hash) => {
    expect(parseRoute(hash)).toBeNull();
  });
});

describe("the list's headings", () => {
  const now = new Date(2026, 10, 20, 15, 0).getTime();
  const used = (year: number, month: number, day: number, hour: number): Conversation => ({
    id: `conv_${year}${month}${day}${hour}`,
    object: "conversation",
    created_at: 0,
    metadata: {},
    chatpager: { title: "", updated_at: new Date(year, month, day, hour).getTime() / 1000, forked_from: null, active_response_id: null },
  });

  it("follow the reader's own days", () => {
    const sessions = [used(2026, 10, 20, 0), used(2026, 10, 19, 23), used(2026, 10, 19, 0), used(2026, 10, 18, 23), used(2026, 10, 13, 0), used(2026, 10, 12, 23)];
    const groups = groupByAge(sessions, now).map((group) => [group.name, group.sessions.length]);
    expect(groups).toEqual([
      [words.today, 1],
      [words.yesterday, 2],
      [words.week, 2],
      [words.older, 1],
    ]);
  });
});

describe("what is read aloud", () => {
  it.each([
    ["Hello Ada, nice to", 0],
    ["Hello Ada. Nice", 10],
    ["Version 3.5 is", 0],
    ["你好！我是", 3],
    ["First line\nsecond", 11],
    ["Really? Yes! And", 12],
  ])("of %j ends with its last whole sentence", (text, end) => {
    expect(sayable(text, false)).toBe(end);
  });

  it("has none of Markdown's marks", () => {
    expect(spoken("## Title\n\n- **one** of `two`\n```python\nx\n```")).toBe("Title\none of two\n\nx");
  });

  it("is everything once the answer is finished", () => {
    expect(sayable("Hello Ada, nice to", true)).toBe(18);
  });
});

describe("a draft", () => {
  const broken = () => {
    throw new Error("storage is off");
  };

  it("survives where storage is switched off, as long as the page", () => {
    const drafts = new Drafts(broken);
    drafts.write("conv_1", "half a thought");
    expect([drafts.read("conv_1"), drafts.read(null)]).toEqual(["half a thought", ""]);
  });

  it("that the browser has no room for is held by the page, which then asks before it is left", () => {
    const { storage } = memoryStorage();
    const drafts = new Drafts(() => storage);
    drafts.write(null, "short");
    vi.spyOn(storage, "setItem").mockImplementation(() => {
      throw new Error("QuotaExceededError");
    });
    drafts.write(null, "much longer");
    expect([drafts.read(null), drafts.kept]).toEqual(["much longer", false]);
    drafts.write(null, "");
    expect([drafts.read(null), drafts.kept]).toEqual(["", true]);
  });

  it("leaves nothing behind when it is emptied", () => {
    const { kept, storage } = memoryStorage();
    const drafts = new Drafts(() => storage);
    drafts.write(null, "x");
    expect(drafts.read(null)).toBe("x");
    drafts.write(null, "");
    expect(kept.size).toBe(0);
  });
});

describe("events", () => {
  afterEach(() => vi.unstubAllGlobals());

  it("are applied together, in their order, once a frame", () => {
    const frames: (() => void)[] = [];
    const applied: (readonly [string, ServerEvent][])[] = [];
    const inbox = new Inbox((events) => void applied.push(events), (run) => void frames.push(run));
    const events = answerEvents("resp_1", ["a", "b", "c"]);
    for (const event of events) inbox.push("conv_1", event);
    expect([frames.length, applied.length]).toEqual([1, 0]);
    frames[0]!();
    expect(applied).toEqual([events.map((event) => ["conv_1", event])]);
  });

  it("are not applied twice when they were flushed before the frame", () => {
    const frames: (() => void)[] = [];
    const applied: (readonly [string, ServerEvent][])[] = [];
    const inbox = new Inbox((events) => void applied.push(events), (run) => void frames.push(run));
    inbox.push("conv_1", answerEvents("resp_1", [])[0]!);
    inbox.flush();
    frames[0]!();
    expect(applied).toHaveLength(1);
  });

  it("are left for as long as the frame before has cost", () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    let clock = 100;
    const schedule = paced((run) => run(), () => clock);
    const drawn: number[] = [];
    const draw = (cost: number) =>
      schedule(() => {
        drawn.push(clock);
        clock += cost;
      });
    draw(30);
    vi.advanceTimersByTime(0);
    draw(0);
    expect(drawn).toEqual([100]);
    clock += 30;
    vi.advanceTimersByTime(30);
    expect(drawn).toEqual([100, 160]);
    vi.advanceTimersByTime(0);
    draw(0);
    expect(drawn).toEqual([100, 160, 160]);
    vi.useRealTimers();
  });

  it.each(["frame", "timer"])("come with the %s, whichever is first, and only once", (first) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const frames: (() => void)[] = [];
    vi.stubGlobal("requestAnimationFrame", (run: () => void) => frames.push(run));
    vi.stubGlobal("cancelAnimationFrame", () => undefined);
    const run = vi.fn();
    nextFrame(run);
    if (first === "frame") frames[0]!();
    vi.advanceTimersByTime(250);
    frames[0]!();
    expect(run).toHaveBeenCalledTimes(1);
    vi.useRealTimers();
  });

  it("go on behind a step that throws", () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    vi.stubGlobal("requestAnimationFrame", () => 0);
    vi.stubGlobal("cancelAnimationFrame", () => undefined);
    const step = vi.fn();
    inTurn(() => {
      throw new Error("no such language");
    });
    inTurn(step);
    expect(() => vi.advanceTimersByTime(250)).toThrow("no such language");
    vi.advanceTimersByTime(250);
    expect(step).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(250);
    vi.useRealTimers();
  });
});

describe("a failed call", () => {
  const answering = (status: number, body: string) => new Api("http://here/", async () => new Response(body, { status }));

  it("carries the server's own message and code", async () => {
    const call = answering(404, '{"error":{"message":"No such conversation.","code":"not_found"}}').session("conv_1");
    await expect(call).rejects.toMatchObject({ name: "ApiError", status: 404, message: "No such conversation.", code: "not_found", passing: false });
  });

  it("for want of a login says what can be done, not what the server tells programs", async () => {
    const call = answering(401, '{"error":{"message":"send the key: Authorization: Bearer KEY","code":"invalid_api_key"}}').sessions();
    await expect(call).rejects.toMatchObject({ status: 401, message: words.login.ended, code: "invalid_api_key", locked: true, passing: true });
  });

  it("says so when the answer is not the server's", async () => {
    await expect(answering(502, "<html>").session("conv_1")).rejects.toMatchObject({ status: 502, message: words.notOurs(502), passing: true });
    await expect(answering(200, "<html>").session("conv_1")).rejects.toMatchObject({ status: 502, passing: true });
    await expect(answering(400, "{}").session("conv_1")).rejects.toMatchObject({ status: 400, message: words.notOurs(400), code: null });
  });

  it("says so when no answer came", async () => {
    const api = new Api("http://here/", () => Promise.reject(new TypeError("network")));
    await expect(api.sessions()).rejects.toMatchObject({ status: 0, message: words.unreachable, passing: true });
  });

  it("puts ids into paths as text", async () => {
    const paths: string[] = [];
    const api = new Api("http://here/under/", async (url) => {
      paths.push(String(url));
      return new Response("{}");
    });
    await api.session("a/../b");
    expect(paths).toEqual(["http://here/under/v1/conversations/a%2F..%2Fb"]);
  });

  it("has words whatever was thrown", () => {
    expect([reasonOf(new ApiError(0, "gone")), reasonOf("text")]).toEqual(["gone", "text"]);
  });
});
