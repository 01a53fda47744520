/** Figures in words: what a turn's badge and its receipt say. */
import type { Pace, Receipt } from "./turns";
import type { CacheReceipt, Timings, Usage } from "./wire";
import { words } from "./words";

const counts = new Intl.NumberFormat(words.locale, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(words.locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function count(value: number): string {
  return counts.format(value);
}

export function tokens(value: number): string {
  return words.tokens(count(value), value === 1);
}

/** `84 ms` below a second, `1.3 s` from there, `2 min 5 s` from two minutes. */
export function duration(milliseconds: number): string {
  if (milliseconds < 999.5) return `${count(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 119.5) return `${seconds < 9.95 ? tenths.format(seconds) : count(seconds)} s`;
  const whole = Math.round(seconds);
  return `${count(Math.floor(whole / 60))} min ${whole % 60} s`;
}

export function rate(perSecond: number): string {
  return perSecond < 9.95 ? tenths.format(perSecond) : count(perSecond);
}

export interface Badge {
  /** null when the server told nothing of the cache. */
  warm: boolean | null;
  parts: string[];
}

/** The one line under an answer; parts the server did not tell are left out. */
export function badge({ usage, cache, timings }: Receipt): Badge {
  const parts: string[] = [];
  if (usage !== null) parts.push(words.cached(count(usage.input_tokens_details.cached_tokens), count(usage.input_tokens)));
  if (timings !== null) {
    parts.push(...firstToken(timings), ...speed(timings));
  }
  return { warm: usage === null ? null : isWarm(usage, cache), parts };
}

/** The few tokens that every prompt begins with warm nobody, unless they are three quarters of it; as the server counts it. */
function isWarm({ input_tokens, input_tokens_details: { cached_tokens } }: Usage, cache: CacheReceipt | null): boolean {
  return cached_tokens > 0 && cached_tokens >= Math.min(cache?.block_size ?? 1, 0.75 * input_tokens);
}

/** The line under an answer while it comes. Its speed is told once there are enough pieces to go by. */
export function paceParts({ sent, first, last, pieces }: Pace): string[] {
  const parts = [words.paceTokens(count(pieces))];
  if (first === null) return [];
  parts.push(words.firstToken(duration(first - sent)));
  if (pieces >= 5 && last > first) parts.push(words.speed(rate(((pieces - 1) * 1000) / (last - first))));
  return parts;
}

export type PartName = keyof typeof words.promptParts;

export interface PromptPart {
  name: PartName;
  tokens: number;
}

/** Where the prompt's tokens came from, the empty sources left out. */
export function promptParts(cache: CacheReceipt): PromptPart[] {
  const all: PromptPart[] = [
    { name: "device", tokens: cache.device_tokens },
    { name: "host", tokens: cache.host_tokens },
    { name: "disk", tokens: cache.disk_tokens },
    { name: "computed", tokens: cache.computed_tokens },
  ];
  return all.filter((part) => part.tokens > 0);
}

/** Why no more was reused, as sentences. */
export function missInWords(cache: CacheReceipt): string[] {
  const said: string[] = [];
  const known: Record<string, string> = words.miss;
  if (cache.miss_reason === null) said.push(words.allReused);
  else said.push(known[cache.miss_reason] ?? words.missUnknown(cache.miss_reason));
  if (cache.diverged_at !== null) said.push(words.divergedAt(count(cache.diverged_at)));
  const reused = cache.device_tokens + cache.host_tokens + cache.disk_tokens;
  if (cache.attainable_tokens > reused) said.push(words.attainable(tokens(cache.attainable_tokens)));
  if (cache.miss_reason === "sub_block") said.push(words.blockSize(tokens(cache.block_size)));
  said.push(...lossInWords(cache));
  if (cache.template !== "exact") said.push(words.template[cache.template]);
  return said;
}

/** How what is missing was lost, and where the prompt left the turn before it, where the server tells. */
function lossInWords({ evicted, published, published_tokens: shared = 0 }: CacheReceipt): string[] {
  const said: string[] = [];
  if (evicted) said.push(words.evictedAgo(duration(evicted.seconds_ago * 1000), evicted.by !== null));
  if (evicted?.lease_revoked) said.push(words.leaseRevoked);
  if (published && shared > 0) said.push(words.publishedPart(tokens(shared), published));
  return said;
}

export interface ReceiptLine {
  name: string;
  parts: string[];
}

/** The receipt as rows of a name and short phrases. */
export function receiptLines({ usage, cache, timings }: Receipt): ReceiptLine[] {
  const lines: ReceiptLine[] = [];
  if (cache !== null) {
    const sources = promptParts(cache).map((part) => `${count(part.tokens)} ${words.promptParts[part.name]}`);
    const drafted = cache.draft_tokens ? [words.drafted(count(cache.draft_tokens))] : [];
    lines.push({ name: words.receiptPrompt, parts: [...sources, ...drafted, words.inAll(count(cache.prompt_tokens))] });
    lines.push({ name: words.receiptReuse, parts: [missInWords(cache).join(" ")] });
  }
  if (cache?.break) {
    const { token_index, role, expected, got } = cache.break;
    lines.push({ name: words.receiptBreak, parts: [expected === null ? words.brokeElsewhere(count(token_index)) : words.brokeAt(count(token_index), role)] });
    if (expected !== null) lines.push({ name: words.expected, parts: [shown(expected)] });
    lines.push({ name: words.got, parts: [shown(got)] });
  }
  if (usage !== null) lines.push({ name: words.receiptAnswer, parts: answerParts(usage, timings) });
  if (timings !== null) lines.push({ name: words.receiptTime, parts: timeParts(timings) });
  return lines;
}

/** A piece of a prompt, its line ends seen. */
function shown(text: string): string {
  return `“${text.replaceAll("\n", "⏎")}”`;
}

function answerParts(usage: Usage, timings: Timings | null): string[] {
  return [tokens(usage.output_tokens), ...(timings === null ? [] : speed(timings))];
}

function firstToken({ ttft_ms }: Timings): string[] {
  return ttft_ms === null ? [] : [words.firstToken(duration(ttft_ms))];
}

function speed({ decode_tok_s }: Timings): string[] {
  return decode_tok_s === null ? [] : [words.speed(rate(decode_tok_s))];
}

function timeParts(timings: Timings): string[] {
  const { queue, prefill } = words.timeParts;
  return [
    `${duration(timings.queue_ms)} ${queue}`,
    `${duration(timings.prefill_ms)} ${prefill}`,
    ...firstToken(timings),
    words.inAll(duration(timings.total_ms)),
  ];
}
