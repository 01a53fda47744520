/** The last minutes of what a snapshot says only of its own moment, for the small lines beside the figures. */
import type { Snapshot } from "./wire";

export const KEPT = 180;

export interface Moment {
  at: number;
  running: number;
  waiting: number;
  used: number;
  lag: number;
  /** Tokens a second since the snapshot before, by source. */
  device: number;
  host: number;
  disk: number;
  computed: number;
  generated: number;
  evicted: number;
}

type Source = "device" | "host" | "disk" | "computed" | "generated";

/** `moments` with one more, the oldest gone where there are too many. A server that was started anew begins from nothing. */
export function grown(moments: readonly Moment[], before: Snapshot | null, now: Snapshot): Moment[] {
  const again = before === null || before.started_at !== now.started_at;
  const seconds = again ? 1 : Math.max(0.001, (now.at - before.at) / 1000);
  const rate = (source: Source) => {
    if (again) return 0;
    return Math.max(0, (totalOf(now)[`${source}_tokens`] - totalOf(before)[`${source}_tokens`]) / seconds);
  };
  const engine = now.engine;
  const evictedNow = evicted(now);
  const moment: Moment = {
    at: now.at,
    running: engine?.running ?? 0,
    waiting: engine?.waiting ?? 0,
    used: engine === null ? 0 : 1 - engine.blocks.free / Math.max(1, engine.blocks.total),
    lag: now.lag.most,
    device: rate("device"),
    host: rate("host"),
    disk: rate("disk"),
    computed: rate("computed"),
    generated: rate("generated"),
    evicted: again ? 0 : Math.max(0, (evictedNow - evicted(before)) / seconds),
  };
  return [...(again ? [] : moments), moment].slice(-KEPT);
}

export function totalOf(snapshot: Snapshot): Snapshot["windows"][number] {
  const total = snapshot.windows.find((one) => one.seconds === 0);
  if (total === undefined) throw new Error("a snapshot without its sums");
  return total;
}

export function evicted(snapshot: Snapshot): number {
  return Object.values(snapshot.engine?.evicted_blocks ?? {}).reduce((sum, count) => sum + count, 0);
}
