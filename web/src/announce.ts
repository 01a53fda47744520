/** What a screen reader is told of an answer that is being written: whole sentences, never single tokens. */

/** Without the marks of Markdown, which say nothing. */
export function spoken(text: string): string {
  const lines = text.replace(/^\s*(?:```|~~~).*$/gm, "").replace(/^\s*(?:#{1,6}|>|[-*+])\s+/gm, "");
  return lines.replace(/\*\*|__|`/g, "").trim();
}

/** The end of the last whole sentence of `text`, or its length when the answer is `finished`. */
export function sayable(text: string, finished: boolean): number {
  if (finished) return text.length;
  let end = 0;
  for (const match of text.matchAll(/[.!?](?=\s)|[。！？…\n]/gu)) end = match.index + match[0].length;
  return end;
}
