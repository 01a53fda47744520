/** The admin page without its components: what it reads, reckons and remembers. */
import { readFileSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { AdminApi } from "../src/admin/api";
import { BlockModel, CODES, prefixTree } from "../src/admin/blocks";
import { Feed, type FeedState, Frames } from "../src/admin/feed";
import { bytes, duration, percent, short } from "../src/admin/figures";
import { layout } from "../src/admin/painter";
import { hashOf, hrefOf, parseRoute, sessionHref } from "../src/admin/route";
import { type Column, csv, filtered, sorted } from "../src/admin/rows";
import { columns, rateOf } from "../src/admin/store";
import { grown } from "../src/admin/trend";
import type { Snapshot, Window } from "../src/admin/wire";
import { LANGUAGES, language, openingLanguage, speak, words } from "../src/admin/words";
import { en } from "../src/admin/words.en";
import { zhHans } from "../src/admin/words.zh-hans";
import { zhHant } from "../src/admin/words.zh-hant";
import { ApiError } from "../src/calls";
import { memoryStorage } from "./storage";

const ROOT = "http://127.0.0.1:8000/";

describe("routes", () => {
  it("are read back as they were written", () => {
    expect(parseRoute(sessionHref("a/b c", "conv_1?x"))).toMatchObject({ view: "session", tenant: "a/b c", session: "conv_1?x" });
    const route = parseRoute(hrefOf("reuse", { sort: "hit", find: "ann & bob" }));
    expect([route.view, route.query.get("sort"), route.query.get("find")]).toEqual(["reuse", "hit", "ann & bob"]);
    expect(parseRoute(hashOf(route))).toEqual(route);
  });
  it.each(["", "#", "#/"])("%s shows the overview", (hash) => {
    expect(parseRoute(hash).view).toBe("overview");
  });
  it.each(["#/zzz", "#/session", "#/session/a", "#/session/%zz/b", "#/reuse/x"])("%s leads nowhere, and stays in the address", (hash) => {
    expect([parseRoute(hash).view, hashOf(parseRoute(hash))]).toEqual(["nowhere", hash]);
  });
});

describe("a turn's error", () => {
  it.each([en, zhHant, zhHans])("has its meaning and its way out in every language, whatever may end a turn", ({ errors }) => {
    const told = readFileSync(new URL("../../chatpager/errors.py", import.meta.url), "utf8");
    const codes = told.matchAll(/^class \w+\((?:Engine|Chatpager)Error\):\n(?:    .*\n|\n)*?.*\bcode\b.* = .*"(engine\w+|grammar\w+|storage\w+)"/gm);
    const wanted = [...codes].map(([, code = ""]) => code);
    expect(wanted).toHaveLength(7);
    for (const code of [...wanted, "turn_taken", "context_length_exceeded", "kv_capacity_exceeded", "invalid_request"]) expect(errors[code], code).toBeTruthy();
  });
});

describe("the stream", () => {
  it.each([1, 3, 7, 1000])("is the same in pieces of %i", (size) => {
    const text = ': \n\nevent: snapshot\ndata: {"a":1}\n\nevent: error\ndata: {}\n\nevent: snapshot\ndata: {"a":"\\n\\n"}\n\nevent: snap';
    const frames = new Frames();
    const found: string[] = [];
    for (let i = 0; i < text.length; i += size) found.push(...frames.push(text.slice(i, i + size)));
    expect(found).toEqual(['{"a":1}', '{"a":"\\n\\n"}']);
  });

  const streamOf = (...texts: string[]) =>
    new Response(
      new ReadableStream({
        start(controller) {
          for (const text of texts) controller.enqueue(new TextEncoder().encode(text));
          controller.close();
        },
      }),
    );

  it("is opened again when it ends, and stopped for good by stop", async () => {
    vi.useFakeTimers();
    const states: FeedState[] = [];
    const told: unknown[] = [];
    const open = vi.fn(async () => streamOf("event: snapshot\ndata: 1\n\n"));
    const feed = new Feed(open, (snapshot) => told.push(snapshot), (state) => states.push(state));
    feed.start();
    await vi.advanceTimersByTimeAsync(600);
    expect(open).toHaveBeenCalledTimes(2);
    expect(told).toEqual([1, 1]);
    feed.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(open).toHaveBeenCalledTimes(2);
    expect(states.slice(0, 3)).toEqual(["connecting", "live", "lost"]);
    vi.useRealTimers();
  });

  it.each([401, 403])("that is refused with %i is locked and not asked for again", async (status) => {
    vi.useFakeTimers();
    const states: FeedState[] = [];
    const open = vi.fn(() => Promise.reject(new ApiError(status, "no")));
    new Feed(open, () => undefined, (next) => states.push(next)).start();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(open).toHaveBeenCalledTimes(1);
    expect(states.at(-1)).toBe("locked");
    vi.useRealTimers();
  });

  it("that falls silent is cut and opened again", async () => {
    vi.useFakeTimers();
    const open = vi.fn(
      (signal: AbortSignal) => new Promise<Response>((_, refuse) => signal.addEventListener("abort", () => refuse(new ApiError(0, "cut")))),
    );
    const feed = new Feed(open, () => undefined, () => undefined);
    feed.start();
    await vi.advanceTimersByTimeAsync(9_000);
    expect(open).toHaveBeenCalledTimes(2);
    feed.stop();
    vi.useRealTimers();
  });
});

describe("calls", () => {
  it("say what the server said, and that our own page changes something", async () => {
    const fetcher = vi.fn(async (_: unknown, init?: RequestInit) => {
      void init;
      return new Response('{"error":{"message":"for admins"}}', { status: 403 });
    });
    const api = new AdminApi(ROOT, fetcher as unknown as typeof fetch);
    await expect(api.history(60)).rejects.toMatchObject({ status: 403, message: "for admins" });
    await expect(api.json("POST", "v1/admin/drain")).rejects.toMatchObject({ status: 403 });
    expect(fetcher.mock.calls.map(([, init]) => init?.headers)).toEqual([{ accept: "application/json" }, { accept: "application/json", "X-Chatpager-Page": "1" }]);
  });
  it("can be copied, without the key", () => {
    const api = new AdminApi(ROOT);
    expect(api.curl(false, "GET", "v1/admin/leases")).toBe("curl 'http://127.0.0.1:8000/v1/admin/leases'");
    const told = api.curl(true, "PUT", "v1/x", { ttl: 5, name: "it's" });
    expect(told).toContain(`-X PUT 'http://127.0.0.1:8000/v1/x'`);
    expect(told).toContain(`'{"ttl":5,"name":"it'\\''s"}'`);
    expect(told).toContain('-H "authorization: Bearer $CHATPAGER_API_KEY"');
  });
});

describe("tables", () => {
  const rows = [
    { name: "b10", size: 2 },
    { name: "b9", size: null },
    { name: "=cmd", size: 30 },
  ];
  const table: Column<(typeof rows)[number]>[] = [
    { name: "name", value: (row) => row.name },
    { name: "size", value: (row) => row.size },
  ];
  it("are sorted by size and by alphabet, what is missing last", () => {
    expect(sorted(rows, (row) => row.size, true).map((row) => row.size)).toEqual([30, 2, null]);
    expect(sorted(rows, (row) => row.size, false).map((row) => row.size)).toEqual([2, 30, null]);
    expect(sorted(rows.slice(0, 2), (row) => row.name, false).map((row) => row.name)).toEqual(["b9", "b10"]);
  });
  it("are filtered by every word", () => {
    expect(filtered(rows, table, " B1 2 ").map((row) => row.name)).toEqual(["b10"]);
    expect(filtered(rows, table, "b 30")).toEqual([]);
  });
  it("become CSV that no spreadsheet runs", () => {
    expect(csv([{ name: 'say "a", b', size: 1 }, ...rows], table)).toBe('name,size\r\n"say ""a"", b",1\r\nb10,2\r\nb9,\r\n\'=cmd,30\r\n');
  });
});

function body(stamp: number, total: number, blocks: [number, number, number][], whole: boolean): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(20 + blocks.length * (whole ? 5 : 9)));
  [stamp, 7, total, blocks.length, Number(whole)].forEach((value, i) => view.setUint32(4 * i, value, true));
  let at = 20;
  if (!whole) for (const [id] of blocks) view.setUint32((at += 4) - 4, id, true);
  for (const [, , parent] of blocks) view.setUint32((at += 4) - 4, parent, true);
  for (const [, code] of blocks) view.setUint8(at++, code);
  return view.buffer;
}

const code = (name: (typeof CODES)[number]) => CODES.indexOf(name);

describe("the block map", () => {
  it("is taken whole, then by its changes, and counted", () => {
    const model = new BlockModel();
    expect(model.query).toBe("v1/admin/blocks?since=0&epoch=0");
    expect(model.take(body(1, 3, [[1, 6, 0], [2, 6, 1], [3, 0, 0]], true))).toBeNull();
    expect(model.counts[6]).toBe(2);
    expect([...(model.take(body(2, 3, [[3, 8, 2]], false)) ?? [])]).toEqual([3]);
    expect([model.codes[3], model.parents[3], model.counts[0], model.counts[8]]).toEqual([8, 2, 0, 1]);
    expect(model.query).toBe("v1/admin/blocks?since=2&epoch=7");
  });

  it("is a tree whose runs are joined and whose largest come first", () => {
    const model = new BlockModel();
    const idle = code("idle");
    // 1-2-3, from 3 on 4 and 5-6; 7 alone; 8 is free, 9 is being written
    model.take(body(1, 9, [[1, idle, 0], [2, idle, 1], [3, idle, 2], [4, idle, 3], [5, idle, 3], [6, idle, 5], [7, idle, 0], [8, 0, 0], [9, 1, 0]], true));
    expect(prefixTree(model, 10).map((run) => [run.blocks, run.size, run.depth])).toEqual([
      [[1, 2, 3], 6, 0],
      [[5, 6], 2, 1],
      [[4], 1, 1],
      [[7], 1, 0],
    ]);
    expect(prefixTree(model, 2).map((run) => run.blocks.length)).toEqual([3, 2]);
    expect(prefixTree(model, 10, 1)[0]?.more).toBe(1);
  });

  it("of a hundred thousand blocks is laid out and made a tree in no time", () => {
    const grid = layout(100_000, 1200, 560, 1);
    expect(grid.columns * grid.rows).toBeGreaterThanOrEqual(100_000);
    expect(grid.columns * grid.cell).toBeLessThanOrEqual(1200);
    const model = new BlockModel();
    const blocks = Array.from({ length: 100_000 }, (_, i): [number, number, number] => [i + 1, code("idle"), i % 100 === 0 ? 0 : i]);
    model.take(body(1, 100_000, blocks, true));
    expect(prefixTree(model, 200)).toHaveLength(200);
  });

  it.each([[10, 300], [2000, 1200], [5000, 390]])("lays out %i cells over %i pixels", (total, width) => {
    for (const ratio of [1, 2, 2.625]) {
      const { columns, rows, cell, gap } = layout(total, width, 560, ratio);
      expect(columns * rows).toBeGreaterThanOrEqual(total);
      expect((columns * cell) / ratio).toBeLessThanOrEqual(width);
      expect(gap).toBeLessThan(cell);
    }
  });
});

const window = (over: Partial<Window> = {}): Window => ({
  seconds: 0,
  turns: 0,
  failed: 0,
  prompt_tokens: 0,
  device_tokens: 0,
  host_tokens: 0,
  disk_tokens: 0,
  computed_tokens: 0,
  attainable_tokens: 0,
  generated_tokens: 0,
  hit_tokens: 0,
  saved_seconds: 0,
  ...over,
});

function snapshot(at: number, over: Partial<Window> = {}, started = 1): Snapshot {
  const none = { count: 0, p50: null, p95: null, p99: null };
  return {
    object: "admin.snapshot",
    at,
    started_at: started,
    version: "0",
    model: "m",
    status: "ok",
    engine_state: "ok",
    restarts: 0,
    windows: [window(over)],
    engine: null,
    first_token_warm: none,
    first_token_cold: none,
    misses: {},
    refused: {},
    resumed: 0,
    resumes_lost: 0,
    sockets: 0,
    queue_age: 0,
    live: 0,
    requests: [],
    faults: [],
    pushes: [],
    lag: { p50: 0, most: 0 },
  };
}

describe("what goes by", () => {
  it("is a rate between two snapshots, and begins anew with another server", () => {
    const first = snapshot(1000, { device_tokens: 100 });
    const second = snapshot(3000, { device_tokens: 300 });
    const moments = grown(grown([], null, first), first, second);
    expect(moments.map((one) => one.device)).toEqual([0, 100]);
    expect(grown(moments, second, snapshot(4000, { device_tokens: 1 }, 2))).toHaveLength(1);
  });
  it("fills the chart, with gaps where nothing could be hit", () => {
    const point = { turns: 1, prompt_tokens: 9, computed_tokens: 1 };
    const [times, attainable, hit, rate] = columns({
      object: "",
      at: 125_000,
      seconds: 60,
      step: 10,
      points: [
        { ...point, at: 100_000, hit_tokens: 3, attainable_tokens: 4 },
        { ...point, at: 120_000, hit_tokens: 0, attainable_tokens: 0 },
      ],
    });
    expect(times).toEqual([70, 80, 90, 100, 110, 120]);
    expect(hit).toEqual([0, 0, 0, 3, 0, 0]);
    expect(attainable).toEqual([0, 0, 0, 4, 0, 0]);
    expect(rate).toEqual([null, null, null, 0.75, null, null]);
    expect(rateOf(undefined)).toBeNull();
  });
});

describe("figures", () => {
  it("are short, and say their unit", () => {
    expect([0.0004, 0.0842, 1.26, 30, 150, 9000, 400_000, null].map(duration)).toEqual(["0.4 ms", "84 ms", "1.3 s", "30 s", "3 min", "2.5 h", "5 d", "–"]);
    expect([0, 512, 1536, 3 * 2 ** 30].map(bytes)).toEqual(["0 B", "512 B", "1.5 KiB", "3 GiB"]);
    expect([0, 0.5, 0.999, 1, null].map(percent)).toEqual(["0%", "50%", "99.9%", "100%", "–"]);
    expect([0.25, 1234, 56_789].map(short)).toEqual(["0.3", "1,234", "56.8K"]);
  });
});

function leaves(of: unknown, path = ""): string[] {
  if (typeof of !== "object" || of === null) return [path];
  return Object.entries(of).flatMap(([name, value]) => leaves(value, `${path}.${name}`));
}

describe("languages", () => {
  it("say all that English says, and nothing twice in its words", () => {
    for (const other of [zhHant, zhHans]) expect(leaves(other).sort()).toEqual(leaves(en).sort());
    expect(Object.keys(LANGUAGES)).toEqual(["en", "zh-Hant", "zh-Hans"]);
  });
  it("call a token the same on both pages", () => {
    const said = ["../src/words/", "../src/admin/words."].flatMap((place) => ["zh-hant.ts", "zh-hans.ts"].map((name) => readFileSync(new URL(place + name, import.meta.url), "utf8")));
    for (const text of said) {
      expect(text).toContain(" token");
      expect(text).not.toMatch(/词元|詞元|权杖|權杖|令牌/);
    }
  });
  it("count one thing as one", () => {
    expect([en.conversations("1", true), en.conversations("2", false)]).toEqual(["1 conversation", "2 conversations"]);
  });
  it("follow the browser until one is chosen", () => {
    const { storage } = memoryStorage();
    vi.stubGlobal("localStorage", storage);
    expect(["zh-TW", "zh-CN", "de"].map((tag) => openingLanguage([tag]))).toEqual(["zh-Hant", "zh-Hans", "en"]);
    speak("zh-Hans");
    expect(words.value.views.overview).toBe(zhHans.views.overview);
    expect(openingLanguage(["zh-TW"])).toBe("zh-Hans");
    vi.unstubAllGlobals();
    language.value = "en";
  });
});
