// @vitest-environment happy-dom
import { describe, expect, it } from "vitest";
import { slices } from "../src/colouring";
import { highlight } from "../src/highlighting";
import { Blocks } from "../src/markdown";
import { Cutter } from "../src/pieces";

const html = (text: string) => {
  const blocks = new Blocks();
  return blocks.of(text).map((block) => blocks.html(block, null)).join("");
};

const TEXT = [
  "# Title",
  "",
  "A paragraph with **bold** and `code`,",
  "over two lines.",
  "",
  "- one",
  "- two",
  "",
  "  still two",
  "",
  "```python",
  "def f():",
  "",
  "    return 1",
  "```",
  "",
  "| a | b |",
  "| - | -: |",
  "| 1 | 2 |",
  "",
  "> quoted",
  "",
  "1. first",
  "2. second",
].join("\n");

describe("a growing text", () => {
  it.each([1, 3, 17])("comes to the same blocks as the whole of it, %i characters at a time", (step) => {
    const blocks = new Blocks();
    for (let end = 0; end <= TEXT.length; end += step) blocks.of(TEXT.slice(0, end));
    const grown = blocks.of(TEXT);
    expect(grown.join("")).toBe(TEXT);
    expect(grown.map((block) => blocks.html(block, null)).join("")).toBe(html(TEXT));
    expect(grown).toHaveLength(7);
  });

  it("keeps the blocks that cannot change as they are", () => {
    const blocks = new Blocks();
    const before = blocks.of("One.\n\nTwo.\n\nThr");
    const after = blocks.of("One.\n\nTwo.\n\nThree.\n\nFour");
    expect([before.length, after.length]).toEqual([3, 4]);
    expect(after.slice(0, 2)).toEqual(before.slice(0, 2));
  });

  it("begins anew when it is another text", () => {
    const blocks = new Blocks();
    blocks.of("One.\n\nTwo.\n\nThree.");
    expect(blocks.of("Other")).toEqual(["Other"]);
    expect(blocks.of("")).toEqual([]);
  });

  it("has the lines of every system", () => {
    expect(new Blocks().of("One.\r\n\r\nTwo.\rstill two")).toEqual(["One.\n\n", "Two.\nstill two"]);
  });
});

describe("a long block", () => {
  const grown = (text: string, step: number) => {
    const cutter = new Cutter(new Blocks());
    let cut = cutter.of("");
    for (let end = step; end < text.length + step; end += step) cut = cutter.of(text.slice(0, end));
    const pieces = (cut?.pieces ?? []).map((piece) => cutter.html(piece, null));
    const [open, close, tag] = cut?.tag === "table" ? [`<thead>${cut.head}</thead><tbody>`, "</tbody>", "tr"] : ["", "", "li"];
    return `${open}${pieces.map((piece) => `<${tag}>${piece}</${tag}>`).join("")}${close}`;
  };
  const list = Array.from({ length: 90 }, (_, i) => `${i + 3}. item **${i}**\n    - with \`code\`\n`);
  it.each([
    ["an ordered list", list.join(""), "ol"],
    ["a loose list", list.join("\n"), "ol"],
    ["a list that becomes loose", [...list, "", "99. late\n"].join(""), "ol"],
    ["a list of rules", "- a\n-\n".repeat(500), "ul"],
    ["a table", "| a | b |\n| - | -: |\n" + "| **1** | `2` |\n".repeat(150), "table"],
  ])("%s is in pieces what it is as a whole", (_, text, tag) => {
    const whole = new Blocks().html(`A paragraph.\n\n${text}`, null);
    const [, within] = new RegExp(`<${tag}[^>]*>(.*)</${tag}>`, "s").exec(whole) ?? [];
    const plain = (one = "") => one.replace(/>\s+</g, "><").trim();
    expect(plain(grown(text, 61))).toBe(plain(within));
  });

  it.each([
    ["of sentences", "Some **bold** words with `a code` in them, and a [link](https://elsewhere.test/a). ".repeat(200)],
    ["of lines", "A line_of_names with 5 * 3 [1] and a hard end  \nand the next line. ".repeat(200)],
    ["with titles", '[a](https://elsewhere.test/a "the title of it") '.repeat(200)],
    ["in Chinese", "分頁快取把提示切成**區塊**，相同的前綴只計算一次。".repeat(300)],
    ["without a word's end", "x".repeat(9000)],
    ["with escapes", "\\*no emphasis\\* and \\[no link] &amp; 😀 ".repeat(300)],
    ["with references", "See [a] or [a][a]. ".repeat(400)],
  ])("a paragraph %s is in pieces what it is as a whole", (_, text) => {
    const blocks = new Blocks();
    const flat = (source: string) => blocks.inline(source).flatMap((token) => token.children ?? []).map((token) => (token.type === "text" ? token.content : `<${token.type} ${token.content}>`)).join("");
    blocks.of("[a]: https://elsewhere.test/a\n\n");
    for (const step of [1_000, 377]) {
      const cutter = new Cutter(blocks);
      let cut = cutter.of("");
      for (let end = step; end < text.length + step; end += step) cut = cutter.of(text.slice(0, end));
      expect([cut?.tag, (cut?.pieces.length ?? 0) > 2]).toEqual(["p", true]);
      expect(cut?.pieces.map((piece) => flat(piece.source)).join("") === flat(text.trimEnd())).toBe(true); // too much to be shown
    }
  });

  it("a paragraph that turns out to be a heading is one, and what opens and never closes does not keep it whole", () => {
    const words = "a*b and more words ".repeat(400);
    const cutter = new Cutter(new Blocks());
    expect(cutter.of(words)?.pieces.length).toBeGreaterThan(2);
    expect(cutter.of(words + "\n===")).toBeNull();
    expect(cutter.of(list.join(""))?.tag).toBe("ol");
  });

  it("keeps the pieces that cannot change, and is whole where it is short or something else", () => {
    const cutter = new Cutter(new Blocks());
    const before = cutter.of(list.join(""));
    const after = cutter.of(list.join("") + "99. one more");
    expect([before?.start, after?.pieces.length]).toEqual([3, 91]);
    expect(after?.pieces.slice(0, 89).every((piece, i) => piece === before?.pieces[i])).toBe(true);
    expect(cutter.of(list.slice(0, 5).join(""))).toBeNull();
    expect(cutter.of("```\n" + "word ".repeat(1000))).toBeNull();
  });
});

describe("markup", () => {
  it.each([
    ["<script>alert(1)</script>", "script"],
    ["<img src=x onerror=alert(1)>", "img"],
    ["![a picture](https://elsewhere.test/a.png)", "img"],
    ["<svg onload=alert(1)>", "svg"],
    ["<iframe src=//elsewhere.test></iframe>", "iframe"],
  ])("%s makes no %s", (text, element) => {
    expect(html(text)).not.toContain(`<${element}`);
  });

  it.each(["javascript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "JaVaScRiPt:alert(1)", "//elsewhere.test/a", "relative"])(
    "a link to %s is none",
    (address) => {
      expect(html(`[click](${address})`)).not.toContain("href");
    },
  );

  it("a link opens elsewhere and tells nobody from where", () => {
    expect(html("[click](https://elsewhere.test/a)")).toContain('rel="noopener noreferrer nofollow"');
  });

  it("a picture is a link with what it shows", () => {
    expect(html("![a picture](https://elsewhere.test/a.png)")).toContain(">a picture</a>");
  });

  it("brings no inline style, which the content security policy would refuse", () => {
    expect(html("| a |\n| -: |\n| 1 |")).not.toContain("style=");
  });

  it("a language's name is text", () => {
    expect(html("```<b>\nx\n```")).toContain("&lt;b&gt;");
  });
});

describe("code", () => {
  it("is coloured where its language is known", () => {
    expect(highlight("def f(): pass", "python")).toContain("hljs-keyword");
    expect(highlight("x", "no such language")).toBeNull();
    expect(highlight("<script>", "html")).not.toContain("<script>");
  });

  it("is coloured in slices as it is at once", () => {
    const code = '"""a\nb\nc\nd\n"""\nx = f"{1}"  # < &\n'.repeat(7) + "last";
    const whole = highlight(code, "python") ?? "";
    const cut = slices(whole, 3);
    expect(cut).toHaveLength(15);
    const place = document.createElement("div");
    const textOf = (html: string) => ((place.innerHTML = html), place.textContent);
    expect(cut.map(textOf).join("")).toBe(code);
    for (const slice of cut) expect(slice.split("<span").length).toBe(slice.split("</span").length);
    expect(cut[1]).toMatch(/^<span class="hljs-string">d/);
  });

  it("is not coloured when it is very long", () => {
    const blocks = new Blocks();
    const [block = ""] = blocks.of("```python\n" + "x = 1\n".repeat(5000) + "```");
    expect(blocks.html(block, () => "coloured")).not.toContain("coloured");
  });
});
