/** What the page does over time: opens conversations, sends and branches, and keeps in step with the server and other pages. */
import { type ReadonlySignal, batch, effect, untracked } from "@preact/signals";
import type { Api } from "./api";
import { ApiError } from "./calls";
import { type Branch, Branching } from "./branching";
import { Carrying } from "./carrying";
import { Deleting } from "./deleting";
import { Drafting } from "./drafting";
import type { Drafts } from "./drafts";
import { paced } from "./frames";
import type { Lines } from "./lines";
import type { Login } from "./login";
import { Sessions } from "./sessions";
import type { LineState } from "./socket";
import { Store } from "./store";
import { isShown, reread } from "./stored";
import { emptyThread, withdraw } from "./turns";
import type { Wishes } from "./wire";
import { type KeptWishes, wishesOf } from "./wishes";

export interface ChatOptions {
  api: Api;
  lines: Lines;
  login: Login;
  drafts: Drafts;
  wishes: KeptWishes;
  /** Show this conversation in the page's address. */
  navigate: (id: string | null) => void;
  /** Tell this browser's other pages that a conversation has changed. */
  tellOthers?: (id: string) => void;
  now?: () => number;
  wait?: (milliseconds: number) => Promise<void>;
  schedule?: (run: () => void) => void;
}

/** How long a turn may say nothing before the server is asked whether it still runs, milliseconds. */
const SILENCE = 20_000;
const SILENCE_ON_WAKE = 2_000;

const pause = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

export class Chat {
  readonly store = new Store();
  readonly sessions: Sessions;
  readonly deleting: Deleting;
  private readonly carrying: Carrying;
  private readonly branching: Branching;
  private readonly drafting: Drafting;

  constructor(private readonly options: ChatOptions) {
    const { store } = this;
    const { api, lines, now = Date.now, wait = pause, schedule = paced(), tellOthers = () => undefined } = options;
    const sessions = (this.sessions = new Sessions(store, api, tellOthers));
    this.branching = new Branching(store, api);
    this.drafting = new Drafting(store, options.drafts, lines, wait);
    this.deleting = new Deleting({ store, api, wait, remove: (id) => this.remove(id), go: (id) => this.go(id) });
    const ended = (id: string) => this.reload(id);
    const changed = (id: string) => {
      void sessions.learn(id);
      tellOthers(id);
      void this.catchUp(id);
    };
    this.carrying = new Carrying({ store, api, lines, sessions, ended, changed, now, wait, schedule });
  }

  get login(): Login {
    return this.options.login;
  }

  get line(): ReadonlySignal<LineState> {
    return this.options.lines.state;
  }

  /** Show `id`, and connect where a login lets the page. Returns a function that ends the watching of both. */
  start(id: string | null): () => void {
    this.show(id);
    const ends = [effect(() => this.admit(this.login.wanted.value)), this.watchLine()];
    return () => ends.forEach((end) => end());
  }

  private admit(wanted: boolean): void {
    untracked(() => {
      if (wanted) return this.options.lines.close();
      this.options.lines.connect();
      this.expect(this.store.currentId.peek());
      void this.refresh();
    });
  }

  private watchLine(): () => void {
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
    this.store.offline.value = false;
    if (this.login.wanted.peek()) return void this.login.ask(); // another page may have logged in
    this.options.lines.connect();
    void this.refresh();
    this.watch(SILENCE_ON_WAKE);
  }

  /** Another page of this browser has changed a conversation. */
  heard(id: string): void {
    void this.sessions.list();
    if (this.store.threads.peek().has(id)) void this.reload(id);
  }

  /** See what became of the open conversation elsewhere: on other devices, where nobody tells this page. */
  async look(): Promise<void> {
    const { store, carrying } = this;
    const id = store.currentId.peek();
    const before = store.session.peek();
    if (id === null || before === undefined || carrying.busy(id)) return;
    await this.sessions.learn(id);
    const after = store.session.peek();
    if (JSON.stringify(before) !== JSON.stringify(after)) await this.reload(id);
  }

  /** After a turn of this page: what others said before it, while the page was too busy to read. */
  private async catchUp(id: string): Promise<void> {
    const { store, options, carrying } = this;
    if (carrying.busy(id)) return;
    const newest = await options.api.newest(id).catch(() => []); // read when the connection is back
    const shown = store.threads.peek().get(id);
    if (shown !== undefined && !carrying.busy(id) && !isShown(newest, shown)) await this.reload(id);
  }

  /** The page is being left. */
  leave(): void {
    this.deleting.leave();
    this.drafting.leave();
  }

  /** A server that said it cannot work is asked whether it can again, and about turns that say nothing. */
  watch(silence = SILENCE): void {
    if (this.store.ailing.value) void this.sessions.askHealth();
    this.carrying.watch(silence);
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

  /** Open it, and say so in the address. */
  go(id: string | null): void {
    this.open(id);
    this.options.navigate(id);
  }

  private show(id: string | null): void {
    const { store, options } = this;
    batch(() => {
      store.currentId.value = id;
      store.draft.value = options.drafts.read(id);
      store.wishes.value = options.wishes.read(id) ?? {};
      store.notice.value = null;
      store.drawer.value = false;
      if (id !== null && !store.threads.value.has(id)) store.put(emptyThread(id, "loading"));
    });
  }

  /** Have a branch at hand before somebody looks at it. */
  async preload(id: string): Promise<void> {
    const { store, sessions } = this;
    if (store.threads.peek().has(id)) return;
    const read = await sessions.read(id).catch(() => null); // told when it is opened
    if (read !== null && !store.threads.peek().has(id)) store.put(read);
  }

  /** Read a conversation from the server, unless a turn of it is under way here. */
  async reload(id: string): Promise<void> {
    const { store, carrying } = this;
    if (carrying.busy(id)) return;
    const before = store.threads.value.get(id);
    try {
      const stored = await this.sessions.read(id);
      // A turn that began meanwhile, even one that has ended since, knows more than what was read.
      store.step(id, (thread) => (thread === before ? reread(thread, stored) : thread));
      if (!carrying.has(id)) void carrying.pursuit.follow(id); // a turn with a socket tells by itself how it goes
      void this.learnWishes(id);
    } catch (error) {
      const missing = error instanceof ApiError && error.status === 404;
      if (!missing && error instanceof ApiError && !error.passing) store.notice.value = error.message;
      store.step(id, (thread) => {
        if (missing) return emptyThread(id, "missing");
        return thread.phase === "ready" ? thread : emptyThread(id, "unreachable");
      });
    }
  }

  private async remove(id: string): Promise<void> {
    this.carrying.forget(id);
    if (!(await this.sessions.remove(id))) return this.sessions.list();
    this.carrying.drop(id);
    this.options.drafts.write(id, "");
    this.options.wishes.write(id, null);
    if (this.store.currentId.value === id) this.go(null);
  }

  /** Read a chat from a file, and open it. */
  async importChat(text: string): Promise<void> {
    const id = await this.sessions.fromFile(text);
    if (id !== null) this.go(id);
  }

  // What a turn asks for

  /** What the chat's last turn asked for, where this browser does not know. */
  private async learnWishes(id: string): Promise<void> {
    const { store, options, carrying } = this;
    const last = store.threads.peek().get(id)?.messages.findLast((one) => one.responseId !== null);
    if (last?.responseId == null || options.wishes.read(id) !== null) return;
    const response = await carrying.pursuit.ask(last.responseId);
    if (typeof response !== "string" && options.wishes.read(id) === null) this.wish(wishesOf(response), id);
  }

  /** What the chat's turns ask for from now on. */
  wish(wishes: Wishes, id = this.store.currentId.peek()): void {
    this.options.wishes.write(id, wishes);
    if (this.store.currentId.peek() === id) this.store.wishes.value = wishes;
  }

  // A turn

  write(text: string): void {
    this.drafting.write(text);
  }

  /** Whether a message can be sent now. */
  get ready(): boolean {
    return this.store.ready.value;
  }

  /** Send the user's message; a new chat is created first. */
  async send(text: string): Promise<void> {
    const { store } = this;
    if (text.trim() === "" || !this.ready) return;
    const id = store.currentId.value ?? (await this.startSession());
    if (id === null) return;
    if (store.currentId.value === id) this.write("");
    this.carrying.send(id, text, this.options.wishes.read(id) ?? {});
  }

  private async startSession(): Promise<string | null> {
    const { store, options } = this;
    store.starting.value = true;
    const id = await this.sessions.create();
    store.starting.value = false;
    if (id === null) return null;
    options.drafts.write(null, "");
    options.wishes.write(id, store.wishes.peek());
    options.wishes.write(null, null);
    if (store.currentId.value === null) this.enter(id);
    return id;
  }

  /** Show a conversation that this page has just made: there is nothing to read of it yet. */
  private enter(id: string): void {
    this.show(id);
    this.options.navigate(id);
  }

  /** Say a message otherwise (`text`), or for null have an answer given again: on a branch, so that what was said before stays. */
  async branch(key: string, text: string | null): Promise<void> {
    const { store, options } = this;
    const thread = store.thread.peek();
    if (thread === undefined || !this.ready) return;
    const wishes = store.wishes.peek();
    const made: Branch[] = [];
    store.starting.value = true;
    await this.sessions.report(async () => void made.push(...(await this.branching.branch(thread, key, text))));
    store.starting.value = false;
    for (const { id, text: said } of made) {
      options.wishes.write(id, wishes);
      if (store.currentId.peek() === thread.id) this.enter(id);
      this.carrying.send(id, said, wishes);
    }
  }

  /** How many tokens the last prompts of two branches share. */
  async shared(one: string, other: string): Promise<number> {
    return (await this.options.api.explain(one, other)).common_tokens;
  }

  /** Take a refused message off the page: to send it again, or to have its text in the composer. */
  retake(key: string, text: string, then: "send" | "edit"): void {
    const id = this.store.currentId.value;
    if (id === null || !this.ready) return;
    this.store.step(id, (thread) => withdraw(thread, key));
    if (then === "send") void this.send(text);
    else this.write(text);
  }

  /** Stop the open conversation's turn, whatever it is doing. */
  stop(): void {
    const id = this.store.currentId.value;
    if (id !== null) this.carrying.stop(id);
  }
}
