/** So many characters fill a field in any case; to measure the height of more takes seconds. */
const FULL = 20_000;

/** Make a field as high as its text, up to the limit its style sets. */
export function fit(box: HTMLTextAreaElement | null): void {
  if (box === null) return;
  box.style.height = "auto";
  box.style.height = box.value.length > FULL ? "100vh" : `${box.scrollHeight}px`;
}
