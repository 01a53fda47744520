import { describe, expect, it } from "vitest";
import { windowOf } from "../src/components/windowing";
import { readFile } from "../src/files";
import { KeptWishes, wish, wishesOf } from "../src/wishes";
import { LANGUAGES, pickLanguage } from "../src/words";
import { item, response } from "./server";
import { memoryStorage } from "./storage";

describe("a wish", () => {
  it.each([
    ["temperature", "0.7", { temperature: 0.7 }],
    ["temperature", "3", {}],
    ["top_k", "1.5", {}],
    ["seed", "7", { seed: 7 }],
    ["seed", "seven", {}],
    ["instructions", "Be brief.", { instructions: "Be brief." }],
    ["instructions", "  ", {}],
  ] as const)("for %s of %j", (name, text, wishes) => {
    expect(wish({}, name, text)).toEqual(wishes);
  });

  it("is taken back by an empty field, and kept where the new one is wrong", () => {
    expect(wish({ seed: 7, top_p: 0.5 }, "seed", "")).toEqual({ top_p: 0.5 });
    expect(wish({ seed: 7 }, "seed", "x")).toEqual({ seed: 7 });
  });

  it("is kept by chat, and known from the last turn where it is not", () => {
    const kept = new KeptWishes(() => memoryStorage().storage);
    expect(kept.read("conv_1")).toBeNull();
    const { storage } = memoryStorage();
    const wishes = new KeptWishes(() => storage);
    wishes.write("conv_1", { seed: 7 });
    expect([wishes.read("conv_1"), wishes.read(null)]).toEqual([{ seed: 7 }, null]);
    wishes.write("conv_1", null);
    expect(wishes.read("conv_1")).toBeNull();
    expect(wishesOf(response("resp_1", { instructions: "Be brief.", max_output_tokens: null }))).toEqual({ instructions: "Be brief." });
  });
});

describe("a file", () => {
  const items = [item("msg_1", "user", "Hi"), item("msg_2", "assistant", "Hello.\n\n## Not a role\n\ntext")];

  it("of JSON is read as it was written", () => {
    const conversation = { chatpager: { title: "Ada" } };
    expect(readFile(JSON.stringify({ object: "conversation.export", conversation, items }))).toEqual({ title: "Ada", items });
  });

  it("of Markdown is read by its headings", () => {
    const read = readFile("# Ada\n\n## User\n\nHi\n\n## Assistant\n\nHello.\n\n## Not a role\n\ntext\n");
    expect(read?.title).toBe("Ada");
    expect(read?.items.map((one) => one.type === "message" && [one.role, one.content[0]?.text])).toEqual([
      ["user", "Hi"],
      ["assistant", "Hello.\n\n## Not a role\n\ntext"],
    ]);
  });

  it.each(["", "plain text", "{}", '{"object": "conversation.export"}', "{", "# only a title"])("%j is none of ours", (text) => {
    expect(readFile(text)).toBeNull();
  });
});

describe("the language", () => {
  it.each([
    [["en-GB"], "en"],
    [["zh-TW"], "zh-Hant"],
    [["zh-Hant-HK"], "zh-Hant"],
    [["zh-CN"], "zh-Hans"],
    [["zh"], "zh-Hans"],
    [["fr", "zh-HK"], "zh-Hant"],
    [["fr"], "en"],
    [[], "en"],
  ])("for %j is %s", (wanted, language) => {
    expect(pickLanguage(wanted)).toBe(language);
  });

  it.each(Object.keys(LANGUAGES))("%s says everything", (name) => {
    const empty = Object.entries(LANGUAGES[name]!).filter(([, value]) => value === "");
    expect(empty).toEqual([]);
    expect(LANGUAGES[name]!.locale).toBe(name);
  });

  it("simplified Chinese has no character of the traditional", () => {
    const text = JSON.stringify(LANGUAGES["zh-Hans"], (_, value) => (typeof value === "function" ? value("x", "y") : value));
    expect(text).not.toMatch(/[個這們來時會說對為與從開關無應讀寫進過還點問題頁機話續納敗連線設]/u);
  });
});

describe("the part of a long list that is drawn", () => {
  const heights = Array.from({ length: 1000 }, () => 100);

  it.each([
    [0, 500, 0, 5],
    [250, 500, 2, 5],
    [-100, 100, 0, 1],
    [99_950, 100_500, 999, 1000],
  ])("between %i and %i", (top, bottom, from, to) => {
    expect(windowOf(heights, top, bottom)).toEqual({ from, to, above: from * 100, below: (1000 - to) * 100 });
  });

  it("of nothing is nothing", () => {
    expect(windowOf([], 0, 100)).toEqual({ from: 0, to: 0, above: 0, below: 0 });
  });
});
