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
import { type ServerEvent, isTerminal } from "./events";
import { type Wishes, isRunning, textOf } from "./wire";
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

/** What a turn asks for beside the answer: why its prompt was computed, and to go on to its end without a reader. */
const OURS = { explain: true, on_disconnect: "continue" } as const;

export class Carrying {
  readonly pursuit: Pursuit;
  private readonly turns = new Map<string, Turn>();
  private readonly inbox: Inbox;
  private sent = 0;

  constructor(private readonly options: CarryingOptions) {
    const { store, api, sessions, wait, ended, schedule } = options;
    this.inbox = new Inbox((events) => this.applyAll(events), schedule);
    const read = (id: string) => sessions.read(id);
    const tell = (id: string, responseId: string) => this.tell(id, responseId);
    this.pursuit = new Pursuit({ store, api, read, wait, tell, ended });
  }

  /** Whether a socket tells of a turn of this conversation. */
  has(id: string): boolean {
    return this.turns.has(id);
  }

  /** Whether the page knows of a turn, by a socket or by asking. */
  busy(id: string): boolean {
    return this.turns.has(id) || this.pursuit.has(id);
  }

  /** Send a message. */
  send(id: string, text: string, wishes: Wishes): void {
    const { store, now } = this.options;
    store.step(id, (thread) => begin(thread, text, `turn-${++this.sent}`, now()));
    const turn = this.carry(
      id,
      { type: "response.create", conversation: id, input: text, ...wishes, chatpager: OURS },
      { event: (event) => this.received(id, turn, event), dropped: (sent) => this.dropped(id, sent) },
    );
  }

  /** The conversation is gone: its running answer ends, and nobody listens. */
  forget(id: string): void {
    const answer = liveAnswer(this.options.store.threads.value.get(id));
    if (answer?.responseId != null) this.turns.get(id)?.socket.cancel(answer.responseId);
  }

  drop(id: string): void {
    this.turns.delete(id);
  }

  private carry(id: string, request: TurnRequest, listener: TurnListener): Turn {
    const { lines, now } = this.options;
    const turn: Turn = { socket: lines.carry(request, listener), stop: false, lastFrame: now(), checking: false };
    this.turns.set(id, turn);
    return turn;
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
    this.inbox.push(id, event);
    const ended = isTerminal(event) || (event.type === "error" && !turn.socket.busy);
    if (event.type === "response.created" && turn.stop) turn.socket.cancel(event.response.id);
    if (ended && this.turns.get(id) === turn) this.turns.delete(id);
    if (!ended && event.type !== "response.created") return;
    this.inbox.flush();
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
    if (this.takeBack(id)) return this.options.changed(id);
    const turn = this.turns.get(id);
    store.step(id, (thread) => stopping(thread, true));
    const { responseId } = answer;
    if (turn !== undefined && responseId === null) turn.stop = true; // there is no id to cancel yet: `received` sends it then
    else if (turn?.socket.state.value === "open" && responseId !== null) turn.socket.cancel(responseId);
    else if (responseId !== null) void this.cancelByCall(id, responseId);
  }

  /** The page is being left: a message that waits for a connection goes no more, and is refused. */
  leave(): void {
    for (const id of [...this.turns.keys()]) this.takeBack(id);
  }

  /** Refuse a message that has not left the page. False where there is none. */
  private takeBack(id: string): boolean {
    const { store } = this.options;
    const answer = liveAnswer(store.threads.value.get(id));
    if (answer === null || answer.responseId !== null || !this.turns.get(id)?.socket.takeBack()) return false;
    this.turns.delete(id);
    store.step(id, (thread) => refuse(thread, words.takenBack));
    return true;
  }

  private async cancelByCall(id: string, responseId: string): Promise<void> {
    const { store, api, sessions } = this.options;
    const heard = await sessions.report(async () => void (await api.cancel(responseId)));
    if (!heard) store.step(id, (thread) => stopping(thread, false));
  }

  private dropped(id: string, sent: boolean): void {
    this.turns.delete(id);
    this.inbox.flush();
    this.options.store.step(id, (thread) => (sent ? lose(thread) : refuse(thread, words.noConnection)));
    if (sent) void this.pursuit.follow(id);
    else this.options.changed(id);
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
