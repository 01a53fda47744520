/**
 * Turns that run without a socket of this page: one that dropped, or one another page started. The server tells their events
 * again; where it cannot any more, it is asked until they end.
 */
import type { Api } from "./api";
import { ApiError } from "./calls";
import type { Store } from "./store";
import { recover } from "./stored";
import { type Thread, adopt, interrupt, liveAnswer, refuse } from "./turns";
import { type ResponseObject, isRunning } from "./wire";
import { words } from "./words";

const POLL = { first: 400, growth: 1.5, longest: 2_000 };

export interface PursuitOptions {
  store: Store;
  api: Api;
  /** Reads a conversation as it is stored. */
  read: (id: string) => Promise<Thread>;
  /** Has a response's events told from where the thread is; true when it came to its end so. */
  tell: (id: string, responseId: string) => Promise<boolean>;
  /** Called when a pursuit has ended: the stored conversation is now the truth. */
  ended: (id: string) => Promise<void>;
  /** Waits this many milliseconds. */
  wait: (milliseconds: number) => Promise<void>;
}

export class Pursuit {
  private readonly running = new Set<string>();

  constructor(private readonly options: PursuitOptions) {}

  has(id: string): boolean {
    return this.running.has(id);
  }

  /** Follow the live turn of a conversation to its end, if there is one. */
  follow(id: string): Promise<void> {
    const answer = liveAnswer(this.options.store.threads.value.get(id));
    if (answer === null) return Promise.resolve();
    const { responseId } = answer;
    return this.pursue(id, () => (responseId === null ? this.findOut(id) : this.observe(id, responseId)));
  }

  /** The response, or why there is none: `gone` will not change, `unreachable` may. */
  async ask(responseId: string): Promise<ResponseObject | "gone" | "unreachable"> {
    try {
      return await this.options.api.response(responseId);
    } catch (error) {
      return isFinal(error) ? "gone" : "unreachable";
    }
  }

  /** Repeat `step`, with growing waits before each, until it is true or the page no longer holds the conversation. */
  private async pursue(id: string, step: () => Promise<boolean>): Promise<void> {
    const { store, wait, ended } = this.options;
    if (this.running.has(id)) return;
    this.running.add(id);
    let pause = POLL.first;
    let over = false;
    while (!over && store.threads.value.has(id)) {
      await wait(pause); // also before the first step: a server that contradicts itself must not be asked in a tight circle
      pause = Math.min(POLL.longest, pause * POLL.growth);
      over = await step();
    }
    this.running.delete(id);
    if (store.threads.value.has(id)) await ended(id);
  }

  private async observe(id: string, responseId: string): Promise<boolean> {
    const response = await this.ask(responseId);
    if (response === "unreachable") return false;
    if (response !== "gone" && isRunning(response.status) && (await this.options.tell(id, responseId))) return true;
    this.options.store.step(id, (thread) => (response === "gone" ? interrupt(thread) : adopt(thread, response)));
    return response === "gone" || !isRunning(response.status);
  }

  /** The turn was never acknowledged: the stored conversation tells whether the server has the message. */
  private async findOut(id: string): Promise<boolean> {
    const { store, read } = this.options;
    try {
      const stored = await read(id);
      store.step(id, (thread) => recover(thread, stored, words.lostBeforeStored));
      return true;
    } catch (error) {
      if (isFinal(error)) store.step(id, (thread) => refuse(thread, error.message));
      return isFinal(error);
    }
  }
}

function isFinal(error: unknown): error is ApiError {
  return error instanceof ApiError && !error.passing;
}
