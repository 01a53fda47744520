/**
 * Turns that run without a socket of this page: one that dropped, or one another page started. The server tells their events
 * again; where it cannot any more, it is asked until they end. One that it may never have got is sent again: it begins it once.
 */
import type { Api } from "./api";
import { ApiError } from "./calls";
import type { Store } from "./store";
import { adopt, interrupt, liveAnswer } from "./turns";
import { type ResponseObject, isRunning } from "./wire";

const POLL = { first: 400, growth: 1.5, longest: 2_000 };

export interface PursuitOptions {
  store: Store;
  api: Api;
  /** Has a response's events told from where the thread is; true when it came to its end so. */
  tell: (id: string, responseId: string) => Promise<boolean>;
  /** Sends a turn again that is not acknowledged; true when it came to its end so. */
  again: (id: string) => Promise<boolean>;
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

  /** Follow the live turn of a conversation to its end, if there is one; until the page no longer holds the conversation. */
  async follow(id: string): Promise<void> {
    const { store, wait, ended } = this.options;
    const live = () => liveAnswer(store.threads.value.get(id));
    if (this.running.has(id) || live() === null) return;
    this.running.add(id);
    let pause = POLL.first;
    for (let over = false; !over && store.threads.value.has(id); ) {
      await wait(pause); // also before the first step: a server that contradicts itself must not be asked in a tight circle
      pause = Math.min(POLL.longest, pause * POLL.growth);
      const answer = live();
      over = answer === null || (await this.step(id, answer.responseId));
    }
    this.running.delete(id);
    if (store.threads.value.has(id)) await ended(id);
  }

  /** The response, or why there is none: `gone` will not change, `unreachable` may. */
  async ask(responseId: string): Promise<ResponseObject | "gone" | "unreachable"> {
    try {
      return await this.options.api.response(responseId);
    } catch (error) {
      return error instanceof ApiError && !error.passing ? "gone" : "unreachable";
    }
  }

  private step(id: string, responseId: string | null): Promise<boolean> {
    return responseId === null ? this.options.again(id) : this.observe(id, responseId);
  }

  private async observe(id: string, responseId: string): Promise<boolean> {
    const response = await this.ask(responseId);
    if (response === "unreachable") return false;
    if (response !== "gone" && isRunning(response.status) && (await this.options.tell(id, responseId))) return true;
    this.options.store.step(id, (thread) => (response === "gone" ? interrupt(thread) : adopt(thread, response)));
    return response === "gone" || !isRunning(response.status);
  }
}
