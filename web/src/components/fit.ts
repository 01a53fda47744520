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

/** The start of a text that would fill the page; the whole of any other. */
export function startOf(text: string): string {
  return isFull(text) ? text.slice(0, FULL) : text;
}

/** Of what is about to be put into a field how many characters there are, where the field has no room for them; else 0. */
export function excess({ data, currentTarget }: InputEvent & { currentTarget: HTMLTextAreaElement }): number {
  const { textLength, selectionStart, selectionEnd } = currentTarget;
  const put = data?.length ?? 0;
  return put + textLength - (selectionEnd - selectionStart) > LONGEST ? put : 0;
}
