/** What the user has begun to write, per conversation, kept over reloads where the browser lets the page store things. */
const PREFIX = "chatpager.draft.";
const NEW = "new";

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
