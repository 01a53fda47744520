/**
 * An answer's text as safe HTML. Nothing in it is ever markup of its own (markdown-it passes no HTML through), and what the
 * parser makes is sanitised once more. Pictures become links: the page loads nothing from anywhere else.
 */
import DOMPurify from "dompurify";
import MarkdownIt, { type Env, type Token } from "markdown-it";
import { words } from "./words";

/** Code as HTML of `span`s with classes; null when the language is not known. */
export type Highlight = (code: string, language: string) => string | null;

/** Code longer than this, characters, is left plain: colouring it would hold the page up. */
export const LONG_CODE = 20_000;

const CLEAN = {
  ALLOWED_TAGS: [
    ..."p br hr h3 h4 h5 h6 ul ol li blockquote pre code span em strong s del a div button".split(" "),
    ..."table thead tbody tr th td".split(" "),
  ],
  ALLOWED_ATTR: ["class", "href", "title", "start", "type", "tabindex", "target", "rel"],
  // What follows is of every attribute's value, but for those that hold no address.
  ADD_URI_SAFE_ATTR: ["start", "type", "tabindex", "target", "rel"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

const parser = new MarkdownIt({ html: false, linkify: true });
parser.validateLink = (address) => CLEAN.ALLOWED_URI_REGEXP.test(address.trim());
const { escapeHtml } = parser.utils;

parser.renderer.rules.fence = (tokens, index, _, env) => {
  const { content = "", info = "" } = tokens[index] ?? {};
  return codeBlock(content, info.trim().split(/\s+/)[0] ?? "", env);
};
parser.renderer.rules.code_block = (tokens, index, _, env) => codeBlock(tokens[index]?.content ?? "", "", env);
parser.renderer.rules.image = (tokens, index) => {
  const token = tokens[index];
  const address = token?.attrGet("src") ?? "";
  return `<a href="${escapeHtml(String(address))}" target="_blank" rel="noopener noreferrer nofollow">${escapeHtml(token?.content || String(address))}</a>`;
};
parser.renderer.rules.table_open = () => '<div class="table" tabindex="0"><table>';
parser.renderer.rules.table_close = () => "</table></div>";
for (const cell of ["th_open", "td_open"] as const) {
  parser.renderer.rules[cell] = (tokens, index) => {
    const [side] = /left|right|center/.exec(String(tokens[index]?.attrGet("style") ?? "")) ?? [];
    return `<${cell.slice(0, 2)}${side === undefined ? "" : ` class="to-${side}"`}>`;
  };
}

// Below the headings that the page itself has: its title, and who speaks.
for (const rule of ["heading_open", "heading_close"] as const) {
  parser.renderer.rules[rule] = (tokens, index) => {
    const level = Math.min(6, Math.max(3, Number(tokens[index]?.tag.slice(1)) + 1));
    return rule === "heading_open" ? `<h${level}>` : `</h${level}>`;
  };
}

// A link opens elsewhere, and tells nobody where it was.
parser.renderer.rules.link_open = (tokens, index, options, _, self) => {
  tokens[index]?.attrSet("target", "_blank");
  tokens[index]?.attrSet("rel", "noopener noreferrer nofollow");
  return self.renderToken(tokens, index, options);
};

function codeBlock(code: string, language: string, env: Env | undefined): string {
  const highlight = env?.highlight as Highlight | null | undefined;
  const coloured = code.length > LONG_CODE ? null : (highlight?.(code, language) ?? null);
  const name = `<span class="code-language">${escapeHtml(language)}</span>`;
  const copy = `<button type="button" class="text-button code-copy">${escapeHtml(words.copyCode)}</button>`;
  const body = `<pre tabindex="0"><code>${coloured ?? escapeHtml(code)}</code></pre>`;
  return `<div class="code"><div class="code-head">${name}${copy}</div>${body}</div>`;
}

/** HTML as elements, sanitised. */
export function clean(html: string): DocumentFragment {
  return DOMPurify.sanitize(html, { ...CLEAN, RETURN_DOM_FRAGMENT: true });
}

/**
 * A growing text cut into its top-level blocks. Only the last of them can still change, so each update parses no more than that
 * and what came after it.
 */
export class Blocks {
  private settled: string[] = [];
  private sofar = "";
  private env: Env = {};

  of(raw: string): readonly string[] {
    const text = raw.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.sofar)) {
      this.settled = [];
      this.sofar = "";
      this.env = {};
    }
    const tail = text.slice(this.sofar.length);
    const starts = this.outline(tail).flatMap((token) => (token.level === 0 && token.nesting >= 0 && token.map ? [token.map[0]] : []));
    const places = offsets(tail, starts.slice(1));
    let from = 0;
    for (const to of places) {
      this.settled = [...this.settled, tail.slice(from, to)];
      from = to;
    }
    this.sofar = text.slice(0, this.sofar.length + from);
    const last = tail.slice(from);
    return last.trim() === "" ? this.settled : [...this.settled, last];
  }

  /** What blocks a text has, without what stands in them. */
  outline(text: string): Token[] {
    const tokens: Token[] = [];
    parser.block.parse(text, parser, this.env, tokens);
    return tokens;
  }

  /** One block as HTML. */
  html(source: string, highlight: Highlight | null): string {
    return this.draw(this.tokens(source), highlight);
  }

  tokens(source: string): Token[] {
    return parser.parse(source, { ...this.env });
  }

  /** Of text within a block. */
  inline(source: string): Token[] {
    return parser.parseInline(source, { ...this.env });
  }

  draw(tokens: Token[], highlight: Highlight | null): string {
    return DOMPurify.sanitize(parser.renderer.render(tokens, parser.options, { ...this.env, highlight }), CLEAN);
  }
}

/** Where these lines, in growing order, begin in the text. */
export function offsets(text: string, lines: readonly number[]): number[] {
  let line = 0;
  let place = 0;
  return lines.map((wanted) => {
    while (line < wanted) {
      place = text.indexOf("\n", place) + 1;
      line++;
    }
    return place;
  });
}
