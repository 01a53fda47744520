/**
 * What is long is drawn from its end, where its reader begins, and upwards from there, some of it a frame: at once it would hold
 * the page up.
 */
import { useEffect, useState } from "preact/hooks";
import { inTurn } from "../frames";

/** Characters that are drawn in a frame. */
const SHARE = 1_200;

/** Where the parts above `to` begin that have a frame's share of characters together. */
export function shareAbove(sizes: readonly number[], to: number): number {
  let from = Math.min(to, sizes.length);
  for (let size = 0; from > 0 && size < SHARE; from--) size += sizes[from - 1] ?? 0;
  return from;
}

/** The first of parts of these sizes, characters, to be drawn now; 0 once all are. */
export function useRising(sizes: readonly number[]): number {
  const [from, setFrom] = useState(() => shareAbove(sizes, sizes.length));
  useEffect(() => (from === 0 ? undefined : inTurn(() => setFrom(shareAbove(sizes, from)))), [from]);
  return from;
}
