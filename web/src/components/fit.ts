/** So many characters fill a field in any case; to measure their height, or to look for their direction, takes seconds. */
const FULL = 20_000;

/** Characters of a message. A field with more of them holds the page up with every key. */
export const LONGEST = 1_000_000;

export function isFull(text: string): boolean {
  return text.length > FULL;
}

/** Make a field as high as its text, up to the limit its style sets. */
export function fit(box: HTMLTextAreaElement | null): void {
  if (box === null) return;
  box.style.height = "auto";
  box.style.height = isFull(box.value) ? "100vh" : `${box.scrollHeight}px`;
}

/** Characters of a text that would fill the page, and what is shown of it at first. */
const LONG = 5_000;
const START = 3_000;

/** The start of a text that would fill the page; the whole of any other. */
export function startOf(text: string): string {
  return text.length > LONG ? text.slice(0, START) : text;
}

/** Make a field ready for what is about to be put into it. Returns of how many characters that are, where there is no room for them; else 0. */
export function makeRoom({ data, currentTarget: box }: InputEvent & { currentTarget: HTMLTextAreaElement }): number {
  const put = data?.length ?? 0;
  const length = put + box.textLength - (box.selectionEnd - box.selectionStart);
  if (length > FULL) box.removeAttribute("dir"); // a browser that looks for the direction of a million characters takes two seconds
  return length > LONGEST ? put : 0;
}
