/** The block map as the server tells it (server/block_mirror.py): whole at first, then only what changed. */

/** In the order of the server's codes. */
export const CODES = ["free", "active", "shared", "dead", "cold", "tail", "idle", "soft", "hard"] as const;
export type Code = (typeof CODES)[number];

const HEADER = 20;

export class BlockModel {
  stamp = 0;
  epoch = 0;
  /** Blocks of the pool; they are numbered from 1. */
  total = 0;
  codes = new Uint8Array(1);
  parents = new Uint32Array(1);
  readonly counts: number[] = CODES.map(() => 0);

  /** Where to go on from. */
  get query(): string {
    return `v1/admin/blocks?since=${this.stamp}&epoch=${this.epoch}`;
  }

  /** Take what the server told; returns the blocks that changed, or null where that may be any. */
  take(told: ArrayBuffer): Uint32Array | null {
    const view = new DataView(told);
    const [stamp, epoch, total, count, whole] = [0, 4, 8, 12, 16].map((at) => view.getUint32(at, true)) as [number, number, number, number, number];
    this.stamp = stamp;
    this.epoch = epoch;
    if (whole === 1) {
      this.total = total;
      this.codes = new Uint8Array(total + 1);
      this.parents = new Uint32Array(total + 1);
      this.counts.fill(0);
      this.counts[0] = total;
    }
    const ids = new Uint32Array(count);
    let at = HEADER;
    for (let i = 0; i < count; i++) ids[i] = whole === 1 ? i + 1 : view.getUint32(at + 4 * i, true);
    if (whole !== 1) at += 4 * count;
    for (let i = 0; i < count; i++) this.parents[ids[i] ?? 0] = view.getUint32(at + 4 * i, true);
    at += 4 * count;
    for (let i = 0; i < count; i++) this.put(ids[i] ?? 0, view.getUint8(at + i));
    return whole === 1 ? null : ids;
  }

  private put(id: number, code: number): void {
    const before = this.codes[id] ?? 0;
    this.counts[before] = (this.counts[before] ?? 0) - 1;
    this.counts[code] = (this.counts[code] ?? 0) + 1;
    this.codes[id] = code;
  }
}

/** A run of cached blocks that goes on in one way only, and what goes on from its end. */
export interface Run {
  /** Root first. */
  blocks: number[];
  /** With everything that goes on from them. */
  size: number;
  depth: number;
  /** Runs that go on from here and are not told: the smallest. */
  more: number;
}

const FIRST_NAMED = CODES.indexOf("shared");

/** The largest prefixes as a tree, in the order in which it is read: at most `most` runs, of each place at most `wide`. */
export function prefixTree(model: BlockModel, most: number, wide = 8): Run[] {
  const { codes, parents, total } = model;
  const child = new Uint32Array(total + 1);
  const sibling = new Uint32Array(total + 1);
  const pending = new Uint32Array(total + 1);
  const size = new Uint32Array(total + 1);
  for (let id = total; id >= 1; id--) {
    if ((codes[id] ?? 0) < FIRST_NAMED) continue;
    const parent = parents[id] ?? 0;
    sibling[id] = child[parent] ?? 0;
    child[parent] = id;
    pending[parent] = (pending[parent] ?? 0) + 1;
  }
  addUp(model, pending, size);
  const runs: Run[] = [];
  const largest = (parent: number) => {
    const found: number[] = [];
    for (let id = child[parent] ?? 0; id !== 0; id = sibling[id] ?? 0) found.push(id);
    return found.sort((a, b) => (size[b] ?? 0) - (size[a] ?? 0));
  };
  const tell = (first: number, depth: number) => {
    if (runs.length >= most) return;
    const blocks = [first];
    let next = largest(first);
    while (next.length === 1 && next[0] !== undefined) {
      blocks.push(next[0]);
      next = largest(next[0]);
    }
    runs.push({ blocks, size: size[first] ?? 0, depth, more: Math.max(0, next.length - wide) });
    for (const id of next.slice(0, wide)) tell(id, depth + 1);
  };
  for (const root of largest(0).slice(0, most)) tell(root, 0);
  return runs;
}

/** Sizes of subtrees, from the leaves up. */
function addUp({ codes, parents, total }: BlockModel, pending: Uint32Array, size: Uint32Array): void {
  const ready: number[] = [];
  for (let id = 1; id <= total; id++) if ((codes[id] ?? 0) >= FIRST_NAMED && pending[id] === 0) ready.push(id);
  for (let id = ready.pop(); id !== undefined; id = ready.pop()) {
    size[id] = (size[id] ?? 0) + 1;
    const parent = parents[id] ?? 0;
    if (parent === 0) continue;
    size[parent] = (size[parent] ?? 0) + (size[id] ?? 0);
    pending[parent] = (pending[parent] ?? 0) - 1;
    if (pending[parent] === 0) ready.push(parent);
  }
}
