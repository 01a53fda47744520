/**
 * A long paragraph in pieces, each drawn by itself, so that while it grows only the last of them is drawn anew. Where it is cut
 * hangs on what stands before the cut alone: it comes to the same pieces however it came.
 */

/** Characters of a piece, at the most: it ends at the last place among them where no mark is open. */
const WINDOW = 3_000;
/** Places that are tried for that. Marks that are open at all of them stand for themselves: they would span a thousand characters. */
const TRIES = 8;
/** Where words end; Chinese and Japanese end them without a space. */
const END = /[\s。！？；，、](?=\S)/g;
/** Code, links and emphases that have their end; and what could begin one that has none yet. */
const CLOSED = /\\.|(`+)[^`]+\1|\[[^[\]]*\](?!\([^()]*$)|(\*+|_+|~~)(?=\S)[^*_~]*\S\2/g;
const OPEN = /[`[]|(?:\*|~~)\S|(?<![\p{L}\p{N}])_+\S/u;

export class Sentences {
  private settled: string[] = [];
  private sofar = "";

  /** The pieces of a paragraph. Those that were not the last one stay as they are while it grows. */
  of(text: string): readonly string[] {
    if (!text.startsWith(this.sofar)) {
      this.settled = [];
      this.sofar = "";
    }
    while (text.length - this.sofar.length > WINDOW) {
      const from = this.sofar.length;
      const piece = text.slice(from, from + this.end(text.slice(from, from + WINDOW)));
      this.settled.push(piece);
      this.sofar += piece;
    }
    return [...this.settled, text.slice(this.sofar.length)];
  }

  private end(text: string): number {
    const ends = [...text.matchAll(END)].map((found) => found.index + 1).filter((place) => place > WINDOW / 2);
    const last = ends.at(-1) ?? (/[\uD800-\uDBFF]$/.test(text) ? WINDOW - 1 : WINDOW);
    const tried = Array.from({ length: TRIES }, (_, i) => ends[Math.floor((ends.length * (TRIES - i)) / TRIES) - 1] ?? last);
    return tried.find((place) => !open(text.slice(0, place))) ?? last;
  }
}

/** Whether a mark may be open at its end; an emphasis may hold another. */
function open(text: string): boolean {
  return OPEN.test(text.replace(CLOSED, "").replace(CLOSED, ""));
}
