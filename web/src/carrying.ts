/** Turns on their sockets: sent, told on, stopped, and watched, as a socket can be dead without anybody saying so. */
import { batch } from "@preact/signals";
import type { Api } from "./api";
import { Inbox } from "./frames";
import type { Lines } from "./lines";
import { Pursuit } from "./pursuit";
import type { Sessions } from "./sessions";
import type { ResponsesSocket, TurnListener, TurnRequest } from "./socket";
import type { Store } from "./store";
import { apply, begin, liveAnswer, lose, refuse, stopping } from "./turns";
import { type CreateRequest, type ServerEvent, isTerminal } from "./events";
import { type ErrorBody, type Wishes, isRunning, textOf } from "./wire";
import { words } from "./words";

export interface CarryingOptions {
  store: Store;
  api: Api;
  lines: Lines;
  sessions: Sessions;
  /** The stored conversation is the truth again. */
  ended: (id: string) => Promise<void>;
  /** A turn of the conversation has begun or ended. */
  changed: (id: string) => void;
  now: () => number;
  wait: (milliseconds: number) => Promise<void>;
  schedule: (run: () => void) => void;
}

/** A turn that a socket of this page tells of: one it sent, or one it came upon while it ran. */
interface Turn {
  socket: ResponsesSocket;
  stop: boolean;
  lastFrame: number;
  checking: boolean;
}

/** A turn that the server has not acknowledged. `lost`: it was sent on a socket that dropped, so the server may have it. */
interface Asked {
  request: CreateRequest;
  lost: boolean;
}

/** What a turn asks for beside the answer: why its prompt was computed, and to go on to its end without a reader. */
const OURS = { explain: true, on_disconnect: "continue" } as const;

export class Carrying {
  readonly pursuit: Pursuit;
  private readonly turns = new Map<string, Turn>();
  private readonly asked = new Map<string, Asked>();
  private readonly inbox: Inbox;

  constructor(private readonly options: CarryingOptions) {
    const { store, api, wait, ended, schedule } = options;
    this.inbox = new Inbox((events) => this.applyAll(events), schedule);
    const tell = (id: string, responseId: string) => this.tell(id, responseId);
    const again = (id: string) => this.attempt(id);
    this.pursuit = new Pursuit({ store, api, wait, tell, again, ended });
  }

  /** Whether a socket tells of a turn of this conversation. */
  has(id: string): boolean {
    return this.turns.has(id);
  }

  /** Whether the page knows of a turn, by a socket or by asking. */
  busy(id: string): boolean {
    return this.turns.has(id) || this.pursuit.has(id);
  }

  /** Send a message. However often one goes out with the same `key`, the server begins one turn with it. */
  send(id: string, text: string, wishes: Wishes, key: string): void {
    const { store, now } = this.options;
    store.step(id, (thread) => begin(thread, text, key, now()));
    const request: CreateRequest = { type: "response.create", conversation: id, input: text, ...wishes, idempotency_key: key, chatpager: OURS };
    this.asked.set(id, { request, lost: false });
    void this.attempt(id).then((over) => (over ? undefined : this.pursuit.follow(id)));
  }

  /** The conversation has gone, and its running answer with it: nobody listens, and what has not left the page does not. */
  drop(id: string): void {
    this.turns.get(id)?.socket.takeBack();
    this.turns.delete(id);
    this.asked.delete(id);
  }

  private carry(id: string, request: TurnRequest, listener: TurnListener): Turn {
    const { lines, now } = this.options;
    const turn: Turn = { socket: lines.carry(request, listener), stop: false, lastFrame: now(), checking: false };
    this.turns.set(id, turn);
    return turn;
  }

  /** Send the turn that is not acknowledged, or send it again. False when its socket dropped before its end. */
  private attempt(id: string): Promise<boolean> {
    const asked = this.asked.get(id);
    if (asked === undefined || this.options.api.locked.peek()) return Promise.resolve(asked === undefined);
    return new Promise((resolve) => {
      const turn = this.carry(id, asked.request, {
        event: (event) => {
          this.received(id, turn, event);
          if (isOver(turn, event)) resolve(true);
        },
        dropped: (sent) => resolve(this.dropped(id, asked, sent)),
      });
      turn.stop = liveAnswer(this.options.store.threads.peek().get(id))?.stopping === true;
    });
  }

  /** Have a running response told to its end. False when it was not: its events are gone, or the socket dropped. */
  private tell(id: string, responseId: string): Promise<boolean> {
    const starting_after = this.options.store.threads.value.get(id)?.sequence ?? -1;
    return new Promise((resolve) => {
      const give = (up: Turn) => {
        if (this.turns.get(id) === up) this.turns.delete(id);
        this.inbox.flush();
        resolve(false);
      };
      const turn = this.carry(
        id,
        { type: "response.resume", response_id: responseId, starting_after },
        {
          event: (event) => {
            if (event.type === "error" && !turn.socket.busy) return give(turn);
            this.received(id, turn, event);
            if (isTerminal(event)) resolve(true);
          },
          dropped: () => give(turn),
        },
      );
    });
  }

  private received(id: string, turn: Turn, event: ServerEvent): void {
    turn.lastFrame = this.options.now();
    const over = isOver(turn, event);
    if (over && this.turns.get(id) === turn) this.turns.delete(id);
    const asked = this.asked.get(id);
    if (over && event.type === "error" && asked !== undefined) return this.refused(id, asked, event.error);
    this.inbox.push(id, event);
    if (event.type === "response.created" && turn.stop) turn.socket.cancel(event.response.id);
    if (!over && event.type !== "response.created") return;
    this.asked.delete(id);
    this.inbox.flush();
    this.options.changed(id);
  }

  private refused(id: string, { lost }: Asked, { code, message }: ErrorBody): void {
    const taken = code === "idempotency_conflict"; // sent before with other settings: the turn of then is there
    this.refuse(id, code === "response_cancelled" ? words.takenBack : message, lost || taken);
  }

  private refuse(id: string, reason: string, unsure: boolean): void {
    this.asked.delete(id);
    this.inbox.flush();
    this.options.store.step(id, (thread) => refuse(thread, reason, unsure));
    this.options.changed(id);
  }

  private applyAll(events: readonly [string, ServerEvent][]): void {
    const { store } = this.options;
    const now = this.options.now();
    batch(() => {
      for (const [id, event] of events) store.step(id, (thread) => apply(thread, event, now));
    });
  }

  /** Stop the conversation's turn, whatever it is doing. */
  stop(id: string): void {
    const { store } = this.options;
    const answer = liveAnswer(store.threads.value.get(id));
    if (answer === null || answer.stopping) return;
    const turn = this.turns.get(id);
    const { responseId } = answer;
    if (responseId === null && this.asked.get(id)?.lost === false && turn?.socket.takeBack()) {
      this.turns.delete(id); // it has not left the page
      return this.refuse(id, words.takenBack, false);
    }
    store.step(id, (thread) => stopping(thread, true));
    if (responseId === null) this.stopUnnamed(id, turn);
    else if (turn?.socket.state.value === "open") turn.socket.cancel(responseId);
    else void this.cancelByCall(id, responseId);
  }

  /** There is no id to cancel by yet. What began elsewhere, with a request that was lost, ends when this page is told its id. */
  private stopUnnamed(id: string, turn: Turn | undefined): void {
    if (turn === undefined) return; // the next attempt sees it
    turn.stop = true;
    if (this.asked.get(id)?.lost === false) turn.socket.withdraw();
  }

  private async cancelByCall(id: string, responseId: string): Promise<void> {
    const { store, api, sessions } = this.options;
    const heard = await sessions.report(async () => void (await api.cancel(responseId)));
    if (!heard) store.step(id, (thread) => stopping(thread, false));
  }

  /** Whether that was the turn's end. */
  private dropped(id: string, asked: Asked, sent: boolean): boolean {
    const { store } = this.options;
    this.turns.delete(id);
    this.inbox.flush();
    if (this.asked.get(id) !== asked) store.step(id, lose); // acknowledged
    else if (!sent && !asked.lost) this.refuse(id, words.noConnection, false);
    else if (liveAnswer(store.threads.peek().get(id))?.stopping) this.refuse(id, words.lostBeforeStored, true);
    else asked.lost = true;
    return liveAnswer(store.threads.peek().get(id)) === null;
  }

  /** After a silence the server is asked whether the turn still runs. */
  watch(silence: number): void {
    for (const [id, turn] of this.turns) {
      if (!turn.checking && this.options.now() - turn.lastFrame >= silence) void this.check(id, turn);
    }
  }

  private async check(id: string, turn: Turn): Promise<void> {
    const heard = turn.lastFrame;
    const responseId = liveAnswer(this.options.store.threads.value.get(id))?.responseId ?? null;
    turn.checking = true;
    const alive = await (responseId === null ? this.waits(id) : this.runs(responseId));
    turn.checking = false;
    if (this.turns.get(id) !== turn || turn.lastFrame !== heard) return;
    if (alive) turn.lastFrame = this.options.now();
    else turn.socket.abandon();
  }

  private async runs(responseId: string): Promise<boolean> {
    const response = await this.pursuit.ask(responseId);
    return typeof response === "object" && isRunning(response.status);
  }

  /** Whether a message that is not acknowledged waits for another's answer: the server has it, and stores it after that. */
  private async waits(id: string): Promise<boolean> {
    const { api, store } = this.options;
    const said = store.threads.value.get(id)?.messages.findLast((one) => one.role === "user")?.text;
    try {
      if ((await api.session(id)).chatpager.active_response_id === null) return false;
      const last = (await api.newest(id)).findLast((one) => one.type === "message" && one.role === "user");
      return last?.type === "message" && textOf(last) !== said; // its own: acknowledged, and the socket did not tell
    } catch {
      return false; // where the server is not reached, the socket is of no use either
    }
  }
}

function isOver(turn: Turn, event: ServerEvent): boolean {
  return isTerminal(event) || (event.type === "error" && !turn.socket.busy);
}
