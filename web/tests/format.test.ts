import { describe, expect, it } from "vitest";
import { badge, duration, missInWords, promptParts, rate, receiptLines } from "../src/format";
import type { CacheReceipt, MissReason, Timings } from "../src/wire";
import { words } from "../src/words";
import { cache, timings, usage } from "./server";

const cold: CacheReceipt = { ...cache, device_tokens: 0, computed_tokens: 152, miss_reason: "cold", attainable_tokens: 0 };

/** Of an answer that ended before its first token. */
const untimed: Timings = { ...timings, ttft_ms: null, decode_tok_s: null };

describe("figures", () => {
  it.each([
    [0.4, "0 ms"],
    [84.2, "84 ms"],
    [999.4, "999 ms"],
    [999.6, "1.0 s"],
    [1340, "1.3 s"],
    [9949, "9.9 s"],
    [9951, "10 s"],
    [119_400, "119 s"],
    [119_600, "2 min 0 s"],
    [125_000, "2 min 5 s"],
  ])("%d milliseconds read as %s", (milliseconds, text) => {
    expect(duration(milliseconds)).toBe(text);
  });

  it.each([
    [3.14, "3.1"],
    [63.4, "63"],
    [1234.5, "1,235"],
  ])("%d tokens a second read as %s", (value, text) => {
    expect(rate(value)).toBe(text);
  });
});

describe("the badge", () => {
  it.each([
    [0, 152, false],
    [15, 152, false],
    [16, 152, true],
    [14, 15, true],
    [3, 6, false],
    [0, 0, false],
  ])("with %d cached tokens of %d warm is %s", (cached_tokens, input_tokens, warm) => {
    const counted = { ...usage, input_tokens, input_tokens_details: { ...usage.input_tokens_details, cached_tokens } };
    expect(badge({ usage: counted, cache: { ...cache, block_size: 16 }, timings }).warm).toBe(warm);
  });

  it("says cached and total tokens, the time to the first token and the speed", () => {
    expect(badge({ usage, cache, timings }).parts.join(" · ")).toBe("cached 128 / 152 tokens · 84 ms to first token · 63 tok/s");
  });

  it("is warm when anything came from the cache, cold when nothing did", () => {
    const nothing = { ...usage, input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 } };
    expect(badge({ usage, cache, timings }).warm).toBe(true);
    expect(badge({ usage: nothing, cache: cold, timings }).warm).toBe(false);
    expect(badge({ usage: null, cache: null, timings }).warm).toBeNull();
  });

  it("leaves out what the server did not tell", () => {
    expect(badge({ usage, cache, timings: null }).parts).toEqual(["cached 128 / 152 tokens"]);
    expect(badge({ usage: null, cache: null, timings: { ...timings, decode_tok_s: null } }).parts).toEqual(["84 ms to first token"]);
    expect(badge({ usage, cache, timings: untimed }).parts).toEqual(["cached 128 / 152 tokens"]);
  });
});

describe("the receipt", () => {
  it("accounts for every token of the prompt", () => {
    const tiers = { ...cache, device_tokens: 64, host_tokens: 32, disk_tokens: 32 };
    const parts = promptParts(tiers);
    expect(parts.map((part) => part.name)).toEqual(["device", "host", "disk", "computed"]);
    expect(parts.reduce((sum, part) => sum + part.tokens, 0)).toBe(tiers.prompt_tokens);
    expect(promptParts(cold).map((part) => part.name)).toEqual(["computed"]);
  });

  it("says in words where the tokens came from and how long it took", () => {
    const lines = Object.fromEntries(receiptLines({ usage, cache, timings }).map(({ name, parts }) => [name, parts.join(", ")]));
    expect(lines).toEqual({
      Prompt: "128 from the device cache, 24 computed, 152 in all",
      Reuse: "Everything that could be reused was.",
      Answer: "30 tokens, 63 tok/s",
      Time: "0 ms queued, 80 ms reading the prompt, 84 ms to first token, 560 ms in all",
    });
  });

  it("says what was read before the message was sent", () => {
    const [prompt] = receiptLines({ usage, cache: { ...cache, draft_tokens: 64 }, timings });
    expect(prompt?.parts).toEqual(["128 from the device cache", "24 computed", "64 of them read while you were writing", "152 in all"]);
  });

  it("has only the rows it has figures for", () => {
    const single = { ...usage, output_tokens: 1 };
    expect(receiptLines({ usage: single, cache: null, timings: null })).toEqual([{ name: "Answer", parts: ["1 token"] }]);
    expect(receiptLines({ usage: null, cache: null, timings: null })).toEqual([]);
    expect(receiptLines({ usage: single, cache: null, timings: untimed }).map(({ parts }) => parts)).toEqual([
      ["1 token"],
      ["0 ms queued", "80 ms reading the prompt", "560 ms in all"],
    ]);
  });

  it.each<MissReason>(["cold", "diverged", "evicted", "lease_expired", "sub_block", "disabled"])("has a sentence for the miss reason %s", (reason) => {
    expect(missInWords({ ...cold, miss_reason: reason })[0]).toBe(words.miss[reason]);
  });

  it("says of a chat's first turn from whose prompt its own parts, and shows no text of that", () => {
    const broken = { response_id: "resp_1", token_index: 3, message_index: 0, role: "system", expected: "ships", got: "boats" };
    const told = (expected: string | null) => receiptLines({ usage: null, cache: { ...cold, break: { ...broken, expected } }, timings: null }).slice(2);
    expect(told("ships").map(({ parts }) => parts[0])).toEqual([words.brokeAt("3", "system"), "“ships”", "“boats”"]);
    expect(told(null).map(({ parts }) => parts[0])).toEqual([words.brokeElsewhere("3"), "“boats”"]);
  });

  it("passes on a reason a later server may give", () => {
    expect(missInWords({ ...cold, miss_reason: "moon_phase" as MissReason })).toEqual(["Reason given by the server: moon_phase."]);
  });

  it("adds where the prompt departed, what could have been reused, the block size, and a rewriting template", () => {
    const diverged = missInWords({ ...cold, miss_reason: "diverged", diverged_at: 1040, attainable_tokens: 48, template: "rewritten" });
    expect(diverged.slice(1)).toEqual([
      "They differ from token 1,040 on.",
      "At best 48 tokens could have been reused.",
      words.template.rewritten,
    ]);
    const left = missInWords({ ...cold, computed_tokens: 16, miss_reason: "evicted", attainable_tokens: 48 });
    expect(left[1]).toBe("At best 48 tokens could have been reused."); // what was never computed was not reused either
    expect(missInWords({ ...cold, template: "kept" }).at(-1)).toBe(words.template.kept);
    expect(missInWords(cold)).toEqual([words.miss.cold]);
    expect(missInWords({ ...cold, miss_reason: "sub_block" })[1]).toBe("Blocks hold 16 tokens.");
  });
});
