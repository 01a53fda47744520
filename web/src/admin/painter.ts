/** Paints the block map on a canvas: all of it as one image, and afterwards only the cells that changed. */
import { type BlockModel, CODES } from "./blocks";

export interface Grid {
  columns: number;
  rows: number;
  /** Side of a cell with the gap behind it, and the gap, in the canvas's own pixels. */
  cell: number;
  gap: number;
}

const LARGEST = 16;
const SMALLEST = 3;

/** The largest cells with which `total` fit the width and about the height; small ones make the map higher. */
export function layout(total: number, width: number, height: number, ratio: number): Grid {
  let cell = Math.round(LARGEST * ratio);
  const least = Math.max(2, Math.round(SMALLEST * ratio));
  const columnsOf = (side: number) => Math.max(1, Math.floor((width * ratio) / side));
  while (cell > least && Math.ceil(total / columnsOf(cell)) * cell > height * ratio) cell -= 1;
  const columns = columnsOf(cell);
  return { columns, rows: Math.ceil(total / columns), cell, gap: cell >= 6 * ratio ? Math.max(1, Math.round(ratio)) : cell > 2 ? 1 : 0 };
}

export class Painter {
  private grid: Grid = { columns: 1, rows: 0, cell: 1, gap: 0 };
  private lit: ReadonlySet<number> = new Set();

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly context: CanvasRenderingContext2D,
    private readonly model: BlockModel,
  ) {}

  /** `colours`: one a code, then that of lit cells. */
  colours: readonly string[] = [];

  fit(width: number, height: number, ratio: number): void {
    this.grid = layout(this.model.total, width, height, ratio);
    const { columns, rows, cell } = this.grid;
    this.canvas.width = Math.max(1, columns * cell);
    this.canvas.height = Math.max(1, rows * cell);
    this.canvas.style.width = `${this.canvas.width / ratio}px`;
    this.canvas.style.height = `${this.canvas.height / ratio}px`;
    this.all();
  }

  all(): void {
    const { width, height } = this.canvas;
    const image = this.context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = this.colours.map(pixelOf);
    const { columns, cell, gap } = this.grid;
    const side = cell - gap;
    for (let id = 1; id <= this.model.total; id++) {
      const colour = colours[this.codeOf(id)] ?? 0;
      const start = Math.floor((id - 1) / columns) * cell * width + ((id - 1) % columns) * cell;
      for (let row = 0; row < side; row++) pixels.fill(colour, start + row * width, start + row * width + side);
    }
    this.context.putImageData(image, 0, 0);
  }

  some(ids: Iterable<number>): void {
    const { columns, cell, gap } = this.grid;
    const byCode: number[][] = [];
    for (const id of ids) (byCode[this.codeOf(id)] ??= []).push(id);
    byCode.forEach((cells, code) => {
      this.context.fillStyle = this.colours[code] ?? "";
      for (const id of cells) {
        this.context.fillRect(((id - 1) % columns) * cell, Math.floor((id - 1) / columns) * cell, cell - gap, cell - gap);
      }
    });
  }

  /** Show these blocks in the colour of the text. */
  light(ids: ReadonlySet<number>): void {
    const before = this.lit;
    this.lit = ids;
    this.some(before);
    this.some(ids);
  }

  /** The block at a place of the canvas in the page's pixels; 0: none. */
  at(x: number, y: number): number {
    const scale = this.canvas.width / Math.max(1, this.canvas.clientWidth);
    const { columns, cell } = this.grid;
    const column = Math.floor((x * scale) / cell);
    const id = Math.floor((y * scale) / cell) * columns + column + 1;
    return column < 0 || column >= columns || id < 1 || id > this.model.total ? 0 : id;
  }

  private codeOf(id: number): number {
    return this.lit.has(id) ? CODES.length : (this.model.codes[id] ?? 0);
  }
}

/** `#rrggbb` as a pixel of an image, red first in memory. */
function pixelOf(colour: string): number {
  const rgb = Number.parseInt(colour.slice(1), 16);
  return (0xff << 24 | (rgb & 0xff) << 16 | (rgb & 0xff00) | rgb >> 16) >>> 0;
}
