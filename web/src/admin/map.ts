/** The block map of the page: one model that is brought up to date for as long as somebody looks at it. */
import { signal } from "@preact/signals";
import { reasonOf } from "../calls";
import type { AdminApi } from "./api";
import { BlockModel } from "./blocks";

const EVERY = 800;

export type Painted = (changed: Uint32Array | null) => void;

export class LiveMap {
  readonly model = new BlockModel();
  /** Grows with every change. */
  readonly version = signal(0);
  readonly first = signal(false);
  readonly error = signal<string | null>(null);
  private readonly painters = new Set<Painted>();

  constructor(
    private readonly api: AdminApi,
    private readonly rests: () => boolean,
  ) {}

  follow(): () => void {
    let timer: ReturnType<typeof setTimeout>;
    let stopped = false;
    const round = async () => {
      if (!this.rests() || !this.first.value) await this.again();
      if (!stopped) timer = setTimeout(round, EVERY);
    };
    void round();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }

  /** Tell of every change which blocks it is; returns the way to stop. */
  watch(painter: Painted): () => void {
    this.painters.add(painter);
    return () => this.painters.delete(painter);
  }

  private async again(): Promise<void> {
    try {
      const changed = this.model.take(await this.api.bytes(this.model.query));
      this.error.value = null;
      if (changed?.length === 0) return;
      for (const painter of this.painters) painter(changed);
      this.version.value += 1;
      this.first.value = true;
    } catch (error) {
      this.error.value = reasonOf(error);
    }
  }
}
