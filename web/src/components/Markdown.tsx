import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { colourBySlices } from "../colouring";
import { copy } from "../copying";
import { Blocks, type Highlight } from "../markdown";
import { type Cut, Cutter, type Piece } from "../pieces";
import { words } from "../words";
import { useRising } from "./rising";

/** Null until code was drawn whose language is named. */
const highlighter = signal<Highlight | null>(null);
let asked = false;

async function fetchHighlighter(): Promise<void> {
  if (asked) return;
  asked = true;
  try {
    highlighter.value = (await import("../highlighting")).highlight;
  } catch {
    asked = false; // no connection: the code stays plain until the next block asks
  }
}

/** Code that still grows is coloured only while it is short: it is drawn anew with every frame. */
const GROWING = 4_000;
const COPIED = 1_500;
const NAMED_CODE = /^[ \t>*+\d.-]*(?:```|~~~)\s*\w/m;

interface MarkdownProps {
  text: string;
  /** The text still grows. */
  live: boolean;
}

/** An answer's text, drawn block by block: what stands above the last one is not touched while the answer grows. */
export function Markdown({ text, live }: MarkdownProps) {
  const blocks = useRef(new Blocks());
  const drawn = useRef<(VNode<BlockProps> | undefined)[]>([]);
  const parts = blocks.current.of(text);
  const from = useRising(parts.map((source) => source.length));
  drawn.current = parts.map((source, index) => {
    if (index < from) return undefined;
    const growing = live && index === parts.length - 1;
    const before = drawn.current[index]; // the same element: Preact leaves it alone
    if (before?.props.source === source && before.props.growing === growing) return before;
    return <Block key={index} blocks={blocks.current} source={source} growing={growing} />;
  });
  return (
    <div class="message-text markdown" dir="auto" onClick={copyCode}>
      {drawn.current}
    </div>
  );
}

interface BlockProps {
  blocks: Blocks;
  source: string;
  growing: boolean;
}

function Block({ blocks, source, growing }: BlockProps) {
  const cutter = useMemo(() => new Cutter(blocks), [blocks]);
  const cut = cutter.of(source);
  return cut === null ? <Whole blocks={blocks} source={source} growing={growing} /> : <Long cutter={cutter} cut={cut} growing={growing} />;
}

function Whole({ blocks, source, growing }: BlockProps) {
  const box = useRef<HTMLDivElement>(null);
  const highlight = useHighlight(source, growing);
  const atOnce = source.length > GROWING ? null : highlight;
  const html = useMemo(() => blocks.html(source, atOnce), [blocks, source, atOnce]);
  useEffect(() => (highlight === null || atOnce !== null || box.current === null ? undefined : colourBySlices(box.current, highlight)), [html, highlight, atOnce]);
  return useMemo(() => <div ref={box} class={growing ? "block is-growing" : "block"} dangerouslySetInnerHTML={{ __html: html }} />, [html, growing]);
}

/** What colours the code in `source`; null where there is none, or it is not worth it yet. */
function useHighlight(source: string, growing: boolean): Highlight | null {
  const coloured = NAMED_CODE.test(source) && !(growing && source.length > GROWING);
  useEffect(() => {
    if (coloured) void fetchHighlighter();
  }, [coloured]);
  return coloured ? highlighter.value : null;
}

const ELEMENTS = { ul: "li", ol: "li", table: "tr", p: "span" } as const;

/** A long list, table or paragraph: each piece has an element, which is left alone once it cannot change. */
function Long({ cutter, cut, growing }: { cutter: Cutter; cut: Cut; growing: boolean }) {
  const drawn = useRef(new WeakMap<Piece, VNode>());
  const from = useRising(cut.pieces.map((piece) => piece.source.length));
  const pieces = cut.pieces.slice(from).map((piece, place) => {
    const index = from + place;
    const known = drawn.current.get(piece);
    if (known !== undefined) return known;
    const one = <PieceOf key={index} cutter={cutter} piece={piece} tag={ELEMENTS[cut.tag]} growing={growing && index === cut.pieces.length - 1} />;
    drawn.current.set(piece, one);
    return one;
  });
  return (
    <div class={growing ? "block is-growing" : "block"}>
      {cut.tag === "table" ? (
        <div class="table" tabIndex={0}>
          <table>
            <thead dangerouslySetInnerHTML={{ __html: cut.head }} />
            <tbody>{pieces}</tbody>
          </table>
        </div>
      ) : (
        <cut.tag start={cut.tag === "ol" ? (cut.start ?? 1) + from : undefined}>{pieces}</cut.tag>
      )}
    </div>
  );
}

function PieceOf({ cutter, piece, tag: Tag, growing }: { cutter: Cutter; piece: Piece; tag: "li" | "tr" | "span"; growing: boolean }) {
  const highlight = useHighlight(piece.source, growing);
  const html = useMemo(() => cutter.html(piece, highlight), [cutter, piece.source, piece.loose, highlight]);
  return useMemo(() => <Tag dangerouslySetInnerHTML={{ __html: html }} />, [html, Tag]);
}

/** The buttons of code blocks are part of their HTML, so their clicks are heard here. */
async function copyCode(event: MouseEvent): Promise<void> {
  const button = event.target instanceof Element ? event.target.closest(".code-copy") : null;
  const code = button?.closest(".code")?.querySelector("code");
  if (button == null || code == null || !(await copy(code.textContent ?? ""))) return;
  button.textContent = words.copied;
  setTimeout(() => (button.textContent = words.copyCode), COPIED);
}
