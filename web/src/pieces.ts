/**
 * A long list, table or paragraph cut into its items, rows or sentences, so that while it grows only the last of them is drawn
 * anew. As HTML, in the page, it is one list, table or paragraph still.
 */
import type { Token } from "markdown-it";
import { type Blocks, type Highlight, offsets } from "./markdown";
import { Sentences } from "./sentences";

/** A block shorter than this, characters, is drawn anew as fast as it is cut. */
const LONG = 2_000;
const TAGS: Record<string, Tag | undefined> = { bullet_list_open: "ul", ordered_list_open: "ol", table_open: "table" };

export type Tag = "ul" | "ol" | "table" | "p";

/** An item of a list, a row of a table, or some sentences of a paragraph. */
export interface Piece {
  source: string;
  /** Its list has room between its items. */
  loose: boolean;
}

export interface Cut {
  tag: Tag;
  /** The first item's number. */
  start: number | undefined;
  /** A table's first row, as HTML. */
  head: string;
  /** Those that cannot change are the same objects every time. */
  pieces: readonly Piece[];
}

export class Cutter {
  private cut: Cut = nothing;
  private settled: Piece[] = [];
  private sofar = "";
  /** The lines that make a table of its rows. */
  private header = "";
  private loose = false;

  private readonly sentences = new Sentences();
  private spoken: Piece[] = [];

  constructor(private readonly blocks: Blocks) {}

  /** The pieces of one block; null where it is short, or cannot be cut. */
  of(source: string): Cut | null {
    if (source.length < LONG) return null;
    if (!source.startsWith(this.sofar)) this.begin();
    const tokens = this.blocks.outline(this.header + source.slice(this.sofar.length));
    const [first, ...others] = tokens.filter((token) => token.level === 0 && token.nesting >= 0);
    if (first?.type === "paragraph_open" && others.length === 0) return this.paragraph(tokens[1]?.content ?? "");
    const tag = first === undefined ? undefined : TAGS[first.type];
    if (first === undefined || tag === undefined || others.length > 0) return null;
    if (this.cut.tag !== tag) {
      if (tag === "table") this.sofar = this.header = source.split("\n", 2).join("\n") + "\n";
      this.cut = { tag, start: Number(first.attrGet("start") ?? 1), head: this.head(), pieces: [] };
    }
    this.loosen(tokens);
    return (this.cut = { ...this.cut, pieces: this.grown(source.slice(this.sofar.length), starts(tokens, tag)) });
  }

  /** What stands inside the piece's element. */
  html(piece: Piece, highlight: Highlight | null): string {
    if (this.cut.tag === "p") return this.blocks.draw(this.blocks.inline(piece.source), null);
    const tokens = this.blocks.tokens(this.header + piece.source);
    if (piece.loose) for (const token of paragraphs(tokens)) token.hidden = false;
    const html = this.blocks.draw(tokens, highlight);
    return this.header === "" ? inside(html, "li") : inside(html.slice(html.indexOf("<tbody>")), "tr");
  }

  private begin(): void {
    this.cut = nothing;
    this.settled = [];
    this.loose = false;
    this.header = this.sofar = "";
  }

  private paragraph(text: string): Cut {
    if (this.cut.tag !== "p") this.begin();
    this.spoken = this.sentences.of(text).map((source, i) => (this.spoken[i]?.source === source ? this.spoken[i] : { source, loose: false }));
    return (this.cut = { ...nothing, tag: "p", pieces: this.spoken });
  }

  private head(): string {
    return this.header === "" ? "" : inside(this.blocks.draw(this.blocks.tokens(this.header), null), "thead");
  }

  /** One gap between items makes room between all of them. */
  private loosen(tokens: Token[]): void {
    if (this.loose || !paragraphs(tokens).some((token) => !token.hidden)) return;
    this.loose = true;
    this.settled = this.settled.map((piece) => ({ ...piece, loose: true }));
  }

  private grown(tail: string, lines: number[]): Piece[] {
    const above = this.header === "" ? 0 : 2;
    let from = 0;
    for (const to of offsets(tail, lines.slice(1).map((line) => line - above))) {
      this.settled.push({ source: tail.slice(from, to), loose: this.loose });
      from = to;
    }
    this.sofar += tail.slice(0, from);
    return lines.length === 0 ? [] : [...this.settled, { source: tail.slice(from), loose: this.loose }];
  }
}

const nothing: Cut = { tag: "ul", start: undefined, head: "", pieces: [] };

/** The lines in which the pieces begin. */
function starts(tokens: Token[], tag: Tag): number[] {
  const body = tag === "table" ? tokens.slice(tokens.findIndex((token) => token.type === "tbody_open")) : tokens;
  const pieces = body.filter((token) => (tag === "table" ? token.type === "tr_open" : token.type === "list_item_open" && token.level === 1));
  return pieces.flatMap((token) => (token.map ? [token.map[0]] : []));
}

/** Those of a list's own items. */
function paragraphs(tokens: Token[]): Token[] {
  return tokens.filter((token) => token.level === 2 && token.type.startsWith("paragraph_"));
}

function inside(html: string, tag: string): string {
  return html.slice(html.indexOf(`<${tag}>`) + tag.length + 2, html.lastIndexOf(`</${tag}>`));
}
