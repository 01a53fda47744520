/** Of a long history only the messages about the part that is seen are drawn; room is kept for the others. */
import type { RefObject } from "preact";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

/** A history of up to so many messages is drawn whole. */
const WHOLE = 200;
/** Pixels: of a message that was never drawn, between two, and drawn beyond both ends of what is seen. */
const GUESS = 120;
export const GAP = 24;
const BEYOND = 1_200;
const AT_FIRST = 5;

export interface Window {
  from: number;
  to: number;
  /** Height of what is not drawn, pixels; 0 where nothing is left out. */
  above: number;
  below: number;
}

/** The part of a list of these heights that stands between two places. */
export function windowOf(heights: readonly number[], top: number, bottom: number): Window {
  let from = 0;
  let above = 0;
  while (from < heights.length - 1 && above + (heights[from] ?? 0) < top) above += heights[from++] ?? 0;
  let to = from;
  let place = above;
  while (to < heights.length && place < bottom) place += heights[to++] ?? 0;
  const below = heights.slice(to).reduce((sum, height) => sum + height, 0);
  return { from, to, above, below };
}

/** The end, where a conversation is opened. */
function atFirst(count: number): Window {
  const from = Math.max(0, count - AT_FIRST);
  return { from, to: count, above: from * (GUESS + GAP), below: 0 };
}

export function useWindow(scroller: RefObject<HTMLElement | null>, keys: readonly string[]): Window {
  const known = useRef(new Map<string, number>());
  const whole = keys.length <= WHOLE;
  const [seen, setSeen] = useState<Window>(() => atFirst(keys.length));

  const look = useCallback(() => {
    const box = scroller.current;
    if (whole || box === null) return;
    for (const slot of box.querySelectorAll<HTMLElement>("[data-key]")) known.current.set(slot.dataset.key ?? "", slot.offsetHeight + GAP);
    const heights = keys.map((key) => known.current.get(key) ?? GUESS + GAP);
    const next = windowOf(heights, box.scrollTop - BEYOND, box.scrollTop + box.clientHeight + BEYOND);
    setSeen((before) => (JSON.stringify(before) === JSON.stringify(next) ? before : next));
  }, [scroller, keys, whole]);

  useLayoutEffect(look, [look, seen]);
  useEffect(() => {
    const box = scroller.current;
    box?.addEventListener("scroll", look, { passive: true });
    return () => box?.removeEventListener("scroll", look);
  }, [scroller, look]);
  return whole ? { from: 0, to: keys.length, above: 0, below: 0 } : seen;
}
