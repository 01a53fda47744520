/** Messages that the server did not take, or may not have taken, per conversation: kept in this browser over reloads, to be sent again. */
import { type Message, type Thread, isLive, message } from "./turns";

export interface Kept {
  key: string;
  text: string;
  error: string | null;
  unsure: boolean;
  /** How many messages that the server has stand before it. */
  at: number;
}

/** What of a thread is to be kept. One that is on its way may arrive, or not: `reason` then says why it may not have. */
export function unsentOf(thread: Thread, reason: string): Kept[] {
  let at = 0;
  const kept: Kept[] = [];
  for (const one of thread.messages) {
    const { key, text, error, unsure } = one;
    const onItsWay = one.role === "user" && one.state === "sending";
    if (one.state === "refused") kept.push({ key, text, error, unsure, at });
    else if (onItsWay) kept.push({ key, text, error: reason, unsure: true, at });
    else if (!isLive(one)) at++;
  }
  return kept;
}

/** The stored thread with the messages that were kept in their places. Those that the server has after all are not there twice. */
export function withUnsent(stored: Thread, kept: readonly Kept[]): Thread {
  const messages = [...stored.messages];
  for (const one of kept.toReversed()) {
    const taken = (mine: Message) => mine.role === "user" && mine.text === one.text;
    if (!one.unsure || !stored.messages.slice(one.at).some(taken)) messages.splice(one.at, 0, refusedOf(one));
  }
  return { ...stored, messages };
}

function refusedOf({ key, text, error, unsure }: Kept): Message {
  return { ...message(key, "user", text, "refused"), error, unsure };
}

const PREFIX = "chatpager.unsent.";

export class Unsent {
  /** Whether all of it outlives the page. */
  kept = true;

  constructor(private readonly storage: () => Storage) {}

  read(id: string): Kept[] {
    try {
      return JSON.parse(this.storage().getItem(PREFIX + id) ?? "[]") as Kept[];
    } catch {
      return []; // storage is switched off
    }
  }

  /** Keep these too. Another page of this browser may have kept others. */
  add(id: string, kept: readonly Kept[]): void {
    if (kept.length > 0) this.write(id, [...this.read(id).filter((one) => kept.every((mine) => mine.key !== one.key)), ...kept]);
  }

  drop(id: string, keys: readonly string[]): void {
    const before = this.read(id);
    const after = before.filter((one) => !keys.includes(one.key));
    if (after.length < before.length) this.write(id, after);
  }

  forget(id: string): void {
    this.write(id, []);
  }

  private write(id: string, kept: readonly Kept[]): void {
    try {
      if (kept.length === 0) this.storage().removeItem(PREFIX + id);
      else this.storage().setItem(PREFIX + id, JSON.stringify(kept));
    } catch {
      this.kept = kept.length === 0; // they live as long as the page
    }
  }
}
