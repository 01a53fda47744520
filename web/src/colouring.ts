/** Colours for long code, some lines a frame: all at once they would hold the page up. */
import { inTurn } from "./frames";
import { type Highlight, LONG_CODE, clean } from "./markdown";

/** Lines that are coloured in a frame. */
const LINES = 40;
const SLICE = new RegExp(`(?:[^\\n]*\\n){${LINES}}|[^]+`, "g");

/** Colour the code in `box`, which stands there plain. Returns the way to stop. */
export function colourBySlices(box: Element, highlight: Highlight): () => void {
  const blocks = [...box.querySelectorAll(".code")];
  /** The slices of a block that has begun. */
  const waiting: (() => void)[] = [];
  const go = () => {
    const step = waiting.shift() ?? begin(blocks.shift(), highlight, waiting);
    if (step === null) return;
    step();
    stop = inTurn(go);
  };
  let stop = inTurn(go);
  return () => stop();
}

/** The first step of a block, which has the others wait; null where there is no block left. */
function begin(block: Element | undefined, highlight: Highlight, waiting: (() => void)[]): (() => void) | null {
  if (block === undefined) return null;
  return () => {
    const code = block.querySelector("code");
    const plain = code?.firstChild;
    if (code == null || !(plain instanceof Text) || plain.length > LONG_CODE) return;
    const coloured = highlight(plain.data, block.querySelector(".code-language")?.textContent ?? "");
    if (coloured === null) return;
    const texts = (plain.data.match(SLICE) ?? []).map((text) => new Text(text));
    plain.replaceWith(...texts); // each stays where it is until it is coloured: nothing moves
    slices(coloured, LINES).forEach((slice, i) => waiting.push(() => texts[i]?.replaceWith(...elementsOf(slice))));
  };
}

function elementsOf(slice: string): ChildNode[] {
  return [...(clean(`<code>${slice}</code>`).firstChild?.childNodes ?? [])];
}

/** HTML of spans in pieces of so many lines; what is open at the end of one is open at the beginning of the next. */
export function slices(html: string, lines: number): string[] {
  const found: string[] = [];
  const open: string[] = [];
  let [from, before, seen] = [0, "", 0];
  const cut = (to: number) => {
    found.push(before + html.slice(from, to) + "</span>".repeat(open.length));
    [from, before] = [to, open.join("")];
  };
  for (const { 0: mark, index } of html.matchAll(/<span[^>]*>|<\/span>|\n/g)) {
    if (mark === "</span>") open.pop();
    else if (mark !== "\n") open.push(mark);
    else if (++seen % lines === 0) cut(index + 1);
  }
  if (from < html.length) cut(html.length);
  return found;
}
