/** What the user has begun to write, per conversation, kept over reloads where the browser lets the page store things. */
const PREFIX = "chatpager.draft.";
const NEW = "new";
/** Of one message that is said otherwise: its place, and the text. */
const EDIT = ".edit";

export class Drafts {
  /** What the browser did not store: it is switched off there, or full. */
  private readonly memory = new Map<string, string>();

  constructor(private readonly storage: () => Storage) {}

  /** Whether all of it outlives the page. */
  get kept(): boolean {
    return this.memory.size === 0;
  }

  read(id: string | null): string {
    const key = PREFIX + (id ?? NEW);
    const held = this.memory.get(key);
    if (held !== undefined) return held;
    try {
      return this.storage().getItem(key) ?? "";
    } catch {
      return "";
    }
  }

  /** What is being written in place of the message at `index`; null for nothing. */
  readEdit(id: string, index: number): string | null {
    const [place, ...text] = this.read(id + EDIT).split("\n");
    return place === String(index) ? text.join("\n") : null;
  }

  writeEdit(id: string, index: number, text: string | null): void {
    if (text !== null) this.write(id + EDIT, `${index}\n${text}`);
    else if (this.readEdit(id, index) !== null) this.write(id + EDIT, "");
  }

  /** Forget all that was written in a conversation, and return it. */
  take(id: string): string[] {
    const taken = [this.read(id), this.read(id + EDIT).replace(/^\d+\n/, "")].filter((text) => text !== "");
    for (const key of [id, id + EDIT]) this.write(key, "");
    return taken;
  }

  write(id: string | null, text: string): void {
    const key = PREFIX + (id ?? NEW);
    this.memory.delete(key);
    try {
      if (text === "") this.storage().removeItem(key);
      else this.storage().setItem(key, text);
    } catch {
      if (text !== "") this.memory.set(key, text); // it lives as long as the page
    }
  }
}
