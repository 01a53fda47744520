/** The live stream: server-sent events over `fetch`, whose refusal can be read, opened again whenever it ends or falls silent. */
import { ApiError } from "../calls";
import type { Snapshot } from "./wire";

const SILENCE = 8_000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 8_000;

export type FeedState = "connecting" | "live" | "lost" | "locked" | "paused";

export class Feed {
  private stopping: AbortController | null = null;

  constructor(
    private readonly open: (signal: AbortSignal) => Promise<Response>,
    private readonly tell: (told: Snapshot) => void,
    private readonly is: (state: FeedState) => void,
  ) {}

  start(): void {
    this.stop();
    const stopping = new AbortController();
    this.stopping = stopping;
    void this.run(stopping.signal);
  }

  stop(): void {
    this.stopping?.abort();
    this.stopping = null;
  }

  private async run(stopped: AbortSignal): Promise<void> {
    let wait = FIRST_WAIT;
    this.is("connecting");
    while (!stopped.aborted) {
      try {
        await this.read(stopped, () => (wait = FIRST_WAIT));
      } catch (error) {
        if (stopped.aborted) return;
        if (error instanceof ApiError && (error.locked || error.status === 403)) return this.is("locked");
      }
      if (stopped.aborted) return;
      this.is("lost");
      await pause(wait, stopped);
      wait = Math.min(LONGEST_WAIT, wait * 2);
    }
  }

  private async read(stopped: AbortSignal, heard: () => void): Promise<void> {
    const cut = new AbortController();
    const end = () => cut.abort();
    stopped.addEventListener("abort", end);
    let silence = setTimeout(end, SILENCE);
    try {
      const answer = await this.open(cut.signal);
      if (answer.body === null) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const frames = new Frames();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE);
        for (const data of frames.push(value)) {
          heard();
          this.is("live");
          this.tell(JSON.parse(data) as Snapshot);
        }
      }
    } finally {
      clearTimeout(silence);
      stopped.removeEventListener("abort", end);
    }
  }
}

/** The data of whole snapshot events, however the stream was cut into pieces. */
export class Frames {
  private rest = "";

  *push(piece: string): Generator<string> {
    const events = (this.rest + piece).split("\n\n");
    this.rest = events.pop() ?? "";
    for (const event of events) {
      const lines = event.split("\n");
      if (!lines.includes("event: snapshot")) continue;
      const data = lines.find((line) => line.startsWith("data: "));
      if (data !== undefined) yield data.slice("data: ".length);
    }
  }
}

function pause(milliseconds: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stopped.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
