/** What is being written: kept in this browser, and told to the server so that it can read a long message meanwhile. */
import type { Drafts } from "./drafts";
import type { Lines } from "./lines";
import type { Store } from "./store";

/** A pause in writing, milliseconds, after which the server is told of a draft of so many characters. */
const PAUSE = 400;
const LONG = 100;
/** More is no message any server takes, and a frame of more may cost the connection. */
const LONGEST = 500_000;

export class Drafting {
  private strokes = 0;
  /** What the server was last told. */
  private told = "";

  constructor(
    private readonly store: Store,
    private readonly drafts: Drafts,
    private readonly lines: Lines,
    private readonly wait: (milliseconds: number) => Promise<void>,
  ) {}

  /** The open chat's draft is `text` now. */
  write(text: string): void {
    const id = this.store.currentId.value;
    this.store.draft.value = text;
    this.drafts.write(id, text);
    const stroke = ++this.strokes;
    void this.wait(PAUSE).then(() => {
      if (stroke === this.strokes && this.store.live.peek() === null) this.tell(id, text);
    });
  }

  /** What is short, the server reads as fast when it is sent. */
  private tell(id: string | null, text: string): void {
    const input = text.length >= LONG && text.length <= LONGEST ? text : "";
    if (input === this.told) return;
    this.told = input;
    const place = id === null ? {} : { conversation: id };
    this.lines.draft({ type: "chatpager.draft", ...place, ...this.store.wishes.peek(), input });
  }
}
