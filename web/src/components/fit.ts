/** So many characters fill a field in any case; to measure their height, or to look for their direction, takes seconds. */
const FULL = 20_000;

export function isFull(text: string): boolean {
  return text.length > FULL;
}

/** Make a field as high as its text, up to the limit its style sets. */
export function fit(box: HTMLTextAreaElement | null): void {
  if (box === null) return;
  box.style.height = "auto";
  box.style.height = isFull(box.value) ? "100vh" : `${box.scrollHeight}px`;
}
