/** Whether the page is as narrow as a phone: the list of chats is a drawer then. The styles ask the same. */
import { useEffect, useState } from "preact/hooks";

const NARROW = "(max-width: 760px)";

export function isNarrow(): boolean {
  return window.matchMedia(NARROW).matches;
}

export function useNarrow(): boolean {
  const [narrow, setNarrow] = useState(isNarrow);
  useEffect(() => {
    const query = window.matchMedia(NARROW);
    const onChange = () => setNarrow(query.matches);
    query.addEventListener("change", onChange);
    return () => query.removeEventListener("change", onChange);
  }, []);
  return narrow;
}
