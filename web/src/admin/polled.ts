/** Something that a view asks for again and again while it is shown. */
import { signal } from "@preact/signals";
import { reasonOf } from "../calls";

export class Polled<T> {
  readonly value = signal<T | null>(null);
  readonly error = signal<string | null>(null);
  private path = "";

  /** `rests` says when nothing is asked for: the page is paused, or nobody sees it. */
  constructor(
    private readonly ask: (path: string) => Promise<T>,
    private readonly rests: () => boolean,
  ) {}

  /** Ask for `path` now and every so many milliseconds; returns the way to stop. What another path told is forgotten. */
  follow(path: string, every: number): () => void {
    if (path !== this.path) this.value.value = null;
    this.path = path;
    let timer: ReturnType<typeof setTimeout>;
    let stopped = false;
    const round = async () => {
      if (!this.rests() || this.value.value === null) await this.again();
      if (!stopped) timer = setTimeout(round, every);
    };
    void round();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }

  /** Ask once more. */
  async again(): Promise<void> {
    const { path } = this;
    try {
      const told = await this.ask(path);
      if (path !== this.path) return;
      this.value.value = told;
      this.error.value = null;
    } catch (error) {
      if (path === this.path) this.error.value = reasonOf(error);
    }
  }
}
