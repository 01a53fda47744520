/** What the page does over time: opens conversations, sends turns and stops them, and keeps watch over their sockets. */
import { type ReadonlySignal, batch, effect, untracked } from "@preact/signals";
import { type Api, ApiError } from "./api";
import type { Drafts } from "./drafts";
import { Inbox, nextFrame } from "./frames";
import type { Lines } from "./lines";
import { Pursuit } from "./pursuit";
import { Sessions } from "./sessions";
import type { LineState, ResponsesSocket } from "./socket";
import { Store } from "./store";
import { apply, begin, emptyThread, liveAnswer, lose, refuse, reread, stopping, withdraw } from "./turns";
import { type ServerEvent, isRunning, isTerminal } from "./wire";
import { words } from "./words";

export interface ChatOptions {
  api: Api;
  lines: Lines;
  drafts: Drafts;
  /** Show this conversation in the page's address. */
  navigate: (id: string | null) => void;
  now?: () => number;
  wait?: (milliseconds: number) => Promise<void>;
  schedule?: (run: () => void) => void;
}

/** A turn this page sent and whose socket still stands. */
interface Turn {
  socket: ResponsesSocket;
  stop: boolean;
  lastFrame: number;
  checking: boolean;
}

/** How long a turn may say nothing before the server is asked whether it still runs, milliseconds. */
const SILENCE = 20_000;
const SILENCE_ON_WAKE = 2_000;
/** A pause in writing, milliseconds, after which the server is told of a draft of so many characters. */
const PAUSE = 400;
const LONG = 100;

const pause = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

export class Chat {
  readonly store = new Store();
  readonly sessions: Sessions;
  private readonly turns = new Map<string, Turn>();
  private readonly inbox: Inbox;
  private readonly pursuit: Pursuit;
  private readonly now: () => number;
  private readonly wait: (milliseconds: number) => Promise<void>;
  private sent = 0;
  private strokes = 0;
  /** What the server was last told of the draft. */
  private told = "";

  constructor(private readonly options: ChatOptions) {
    const { store } = this;
    const { api, now = Date.now, wait = pause, schedule = nextFrame } = options;
    this.now = now;
    this.wait = wait;
    this.sessions = new Sessions(store, api);
    this.inbox = new Inbox((events) => this.applyAll(events), schedule);
    const read = (id: string) => this.sessions.read(id);
    this.pursuit = new Pursuit({ store, api, read, wait, ended: (id) => this.reload(id) });
  }

  get line(): ReadonlySignal<LineState> {
    return this.options.lines.state;
  }

  /** Connect and show `id`. Returns a function that ends the watching of the connection. */
  start(id: string | null): () => void {
    this.options.lines.connect();
    this.show(id);
    this.expect(id);
    void this.refresh();
    const { away } = this.store;
    return effect(() => {
      const state = this.line.value;
      untracked(() => {
        // the browser does not tell why a socket was refused; a call's answer does
        if (state === "waiting") void Promise.all([this.sessions.askHealth(), this.sessions.list()]);
        if (state === "open" && away.value) void this.refresh();
        if (state === "waiting" || state === "open") away.value = state === "waiting";
      });
    });
  }

  /** On coming back to the tab or online: connect without waiting longer, and catch up with what other pages did. */
  wake(): void {
    this.options.lines.connect();
    void this.refresh();
    this.watch(SILENCE_ON_WAKE);
  }

  private async refresh(): Promise<void> {
    const id = this.store.currentId.peek();
    await Promise.all([this.sessions.askHealth(), this.sessions.list(), id === null ? undefined : this.reload(id)]);
  }

  // Opening

  /** Show a conversation, or a new one for null. */
  open(id: string | null): void {
    if (this.store.currentId.value === id) return;
    this.show(id);
    this.expect(id);
    if (id !== null) void this.reload(id);
  }

  /** Have the conversation's prefix ready before its next message. What goes wrong with it costs warmth, and nothing else. */
  private expect(id: string | null): void {
    if (id !== null) this.options.api.prefetch(id).catch(() => undefined);
  }

  private go(id: string | null): void {
    this.show(id);
    this.options.navigate(id);
  }

  private show(id: string | null): void {
    const { store } = this;
    batch(() => {
      store.currentId.value = id;
      store.draft.value = this.options.drafts.read(id);
      store.notice.value = null;
      store.drawer.value = false;
      if (id !== null && !store.threads.value.has(id)) store.put(emptyThread(id, "loading"));
    });
  }

  /** Read a conversation from the server, unless a turn of it is under way here. */
  async reload(id: string): Promise<void> {
    const { store, turns, pursuit } = this;
    if (turns.has(id) || pursuit.has(id)) return;
    const before = store.threads.value.get(id);
    try {
      const stored = await this.sessions.read(id);
      // A turn that began meanwhile, even one that has ended since, knows more than what was read.
      store.step(id, (thread) => (thread === before ? reread(thread, stored) : thread));
      if (!turns.has(id)) void pursuit.follow(id); // a turn with a socket tells by itself how it goes
    } catch (error) {
      const missing = error instanceof ApiError && error.status === 404;
      const told = missing || (error instanceof ApiError && error.locked);
      if (!told && error instanceof ApiError && !error.passing) store.notice.value = error.message;
      store.step(id, (thread) => {
        if (missing) return emptyThread(id, "missing");
        return thread.phase === "ready" ? thread : emptyThread(id, "unreachable");
      });
    }
  }

  async remove(id: string): Promise<void> {
    const answer = liveAnswer(this.store.threads.value.get(id));
    if (answer?.responseId != null) this.turns.get(id)?.socket.cancel(answer.responseId);
    if (!(await this.sessions.remove(id))) return;
    this.turns.delete(id);
    this.options.drafts.write(id, "");
    if (this.store.currentId.value === id) this.go(null);
  }

  // A turn

  write(text: string): void {
    const id = this.store.currentId.value;
    this.store.draft.value = text;
    this.options.drafts.write(id, text);
    const stroke = ++this.strokes;
    void this.wait(PAUSE).then(() => {
      if (stroke === this.strokes && this.store.live.peek() === null) this.tellDraft(id, text);
    });
  }

  /** Let the server read a long message while it is being written. What is short, it reads as fast when it is sent. */
  private tellDraft(id: string | null, text: string): void {
    const input = text.length >= LONG ? text : "";
    if (input === this.told) return;
    this.told = input;
    this.options.lines.draft({ type: "chatpager.draft", ...(id === null ? {} : { conversation: id }), input });
  }

  /** Whether a message can be sent now. */
  get ready(): boolean {
    const { store } = this;
    const open = store.currentId.value === null || store.thread.value?.phase === "ready";
    return open && store.live.value === null && !store.starting.value && !store.away.value;
  }

  /** Send the user's message; a new chat is created first. */
  async send(text: string): Promise<void> {
    const { store } = this;
    if (text.trim() === "" || !this.ready) return;
    const id = store.currentId.value ?? (await this.startSession());
    if (id === null) return;
    if (store.currentId.value === id) this.write("");
    store.step(id, (thread) => begin(thread, text, `turn-${++this.sent}`));
    const socket = this.options.lines.create(
      { type: "response.create", conversation: id, input: text },
      { event: (event) => this.received(id, turn, event), dropped: (sent) => this.dropped(id, sent) },
    );
    const turn: Turn = { socket, stop: false, lastFrame: this.now(), checking: false };
    this.turns.set(id, turn);
  }

  private async startSession(): Promise<string | null> {
    const { store } = this;
    store.starting.value = true;
    const id = await this.sessions.create();
    store.starting.value = false;
    if (id === null) return null;
    this.options.drafts.write(null, "");
    if (store.currentId.value === null) this.go(id);
    return id;
  }

  /** Take a refused message off the page: to send it again, or to have its text in the composer. */
  retake(key: string, text: string, then: "send" | "edit"): void {
    const id = this.store.currentId.value;
    if (id === null || !this.ready) return;
    this.store.step(id, (thread) => withdraw(thread, key));
    if (then === "send") void this.send(text);
    else this.write(text);
  }

  private received(id: string, turn: Turn, event: ServerEvent): void {
    turn.lastFrame = this.now();
    this.inbox.push(id, event);
    const ended = isTerminal(event) || (event.type === "error" && !turn.socket.busy);
    if (event.type === "response.created" && turn.stop) turn.socket.cancel(event.response.id);
    if (ended && this.turns.get(id) === turn) this.turns.delete(id);
    if (!ended && event.type !== "response.created") return;
    this.inbox.flush();
    void this.sessions.learn(id);
  }

  private applyAll(events: readonly [string, ServerEvent][]): void {
    batch(() => {
      for (const [id, event] of events) this.store.step(id, (thread) => apply(thread, event));
    });
  }

  /** Stop the open conversation's turn, whatever it is doing. */
  stop(): void {
    const id = this.store.currentId.value;
    const answer = this.store.live.value;
    if (id === null || answer === null || answer.stopping) return;
    const turn = this.turns.get(id);
    if (turn?.socket.takeBack()) {
      this.turns.delete(id);
      this.store.step(id, (thread) => refuse(thread, words.takenBack));
      return;
    }
    this.store.step(id, (thread) => stopping(thread, true));
    const { responseId } = answer;
    if (turn !== undefined) {
      turn.stop = true; // before response.created there is no id to cancel yet: `received` sends it then
      if (responseId !== null) turn.socket.cancel(responseId);
    } else if (responseId !== null) {
      void this.cancelByCall(id, responseId);
    }
  }

  private async cancelByCall(id: string, responseId: string): Promise<void> {
    const heard = await this.sessions.report(async () => void (await this.options.api.cancel(responseId)));
    if (!heard) this.store.step(id, (thread) => stopping(thread, false));
  }

  // Its socket

  private dropped(id: string, sent: boolean): void {
    this.turns.delete(id);
    this.inbox.flush();
    this.store.step(id, (thread) => (sent ? lose(thread) : refuse(thread, words.noConnection)));
    void this.pursuit.follow(id);
  }

  /**
   * A socket can be dead without anybody telling: after a silence the server is asked whether the turn still runs.
   * A server that said it cannot work is asked whether it can again.
   */
  watch(silence = SILENCE): void {
    if (this.store.ailing.value) void this.sessions.askHealth();
    for (const [id, turn] of this.turns) {
      if (!turn.checking && this.now() - turn.lastFrame >= silence) void this.check(id, turn);
    }
  }

  private async check(id: string, turn: Turn): Promise<void> {
    const heard = turn.lastFrame;
    const responseId = liveAnswer(this.store.threads.value.get(id))?.responseId ?? null;
    turn.checking = true;
    const response = responseId === null ? "gone" : await this.pursuit.ask(responseId);
    turn.checking = false;
    if (this.turns.get(id) !== turn || turn.lastFrame !== heard) return;
    if (typeof response === "object" && isRunning(response.status)) turn.lastFrame = this.now();
    else turn.socket.abandon();
  }
}
