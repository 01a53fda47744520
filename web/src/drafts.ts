/** What the user has begun to write, per conversation, kept over reloads where the browser lets the page store things. */
const PREFIX = "chatpager.draft.";
const NEW = "new";

export class Drafts {
  private readonly memory = new Map<string, string>();

  constructor(private readonly storage: () => Storage) {}

  read(id: string | null): string {
    const key = PREFIX + (id ?? NEW);
    try {
      return this.storage().getItem(key) ?? "";
    } catch {
      return this.memory.get(key) ?? ""; // storage is switched off or full: the draft lives as long as the page
    }
  }

  write(id: string | null, text: string): void {
    const key = PREFIX + (id ?? NEW);
    this.memory.set(key, text);
    try {
      if (text === "") this.storage().removeItem(key);
      else this.storage().setItem(key, text);
    } catch {
      // as above: the memory holds it
    }
  }
}
