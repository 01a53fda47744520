/** Scrolling that follows the end of a growing text only while the reader is there. */
import type { RefObject } from "preact";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type Message, isLive } from "../turns";

/** Distance from the end, pixels, that still counts as being there. */
const NEAR = 24;

export function useStickToEnd(scroller: RefObject<HTMLDivElement | null>, id: string, messages: readonly Message[]) {
  const stuck = useRef(true);
  const top = useRef(0);
  const [atEnd, setAtEnd] = useState(true);

  const settle = useCallback(() => {
    const box = scroller.current;
    if (box === null) return;
    if (stuck.current) box.scrollTop = box.scrollHeight;
    top.current = box.scrollTop;
  }, [scroller]);

  const stick = useCallback((value: boolean) => {
    stuck.current = value;
    setAtEnd(value);
  }, []);

  const toEnd = useCallback(() => {
    stick(true);
    settle();
  }, [stick, settle]);

  // The reader's own message always brings them to the end; another version of the conversation leaves them where they are.
  const shown = useRef(id);
  const own = messages.findLast((message) => message.role === "user")?.key;
  const last = messages.at(-1);
  const sent = last !== undefined && isLive(last);
  useLayoutEffect(() => {
    if (shown.current === id || sent) stick(true);
    shown.current = id;
  }, [own, id, stick]);
  useLayoutEffect(settle, [messages, settle]);

  useEffect(() => {
    const box = scroller.current;
    if (box === null) return;
    const onScroll = () => {
      const left = box.scrollHeight - box.clientHeight - box.scrollTop;
      // Any move up by the reader lets go at once; otherwise the next token would pull them back.
      if (box.scrollTop < top.current - 1 && left > 1) stick(false);
      else if (left <= NEAR) stick(true);
      top.current = box.scrollTop;
    };
    const sizes = new ResizeObserver(settle);
    sizes.observe(box);
    if (box.firstElementChild !== null) sizes.observe(box.firstElementChild); // code that is coloured late grows
    box.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      sizes.disconnect();
      box.removeEventListener("scroll", onScroll);
    };
  }, [scroller, settle, stick]);

  return { atEnd, toEnd };
}
