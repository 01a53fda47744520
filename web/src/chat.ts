/** What the page does over time: sends and branches, and keeps in step with the server and other pages. */
import { type ReadonlySignal, effect, untracked } from "@preact/signals";
import type { Api } from "./api";
import { Beginning } from "./beginning";
import { type Branch, Branching } from "./branching";
import { Carrying } from "./carrying";
import { Deleting } from "./deleting";
import { Drafting } from "./drafting";
import type { Drafts } from "./drafts";
import { paced } from "./frames";
import type { Lines } from "./lines";
import type { Login } from "./login";
import { Opening } from "./opening";
import { Sessions } from "./sessions";
import type { LineState } from "./socket";
import { Store } from "./store";
import { isShown } from "./stored";
import { withdraw } from "./turns";
import type { Unsent } from "./unsent";
import type { KeptWishes } from "./wishes";

export interface ChatOptions {
  api: Api;
  lines: Lines;
  login: Login;
  drafts: Drafts;
  unsent: Unsent;
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
  readonly opening: Opening;
  private readonly carrying: Carrying;
  private readonly beginning: Beginning;
  private readonly branching: Branching;
  private readonly drafting: Drafting;

  constructor(private readonly options: ChatOptions) {
    const { store } = this;
    const { api, lines, now = Date.now, wait = pause, schedule = paced(), tellOthers = () => undefined } = options;
    const sessions = (this.sessions = new Sessions(store, api, tellOthers));
    this.branching = new Branching(store, api);
    this.drafting = new Drafting(store, options.drafts, lines, wait);
    this.deleting = new Deleting({ store, api, wait, now, remove: (id, idle) => this.remove(id, idle), go: (id) => this.opening.go(id) });
    const ended = async (id: string) => (this.beginning.settle(id) ? undefined : this.opening.reload(id));
    const changed = (id: string) => {
      if (this.beginning.settle(id)) return;
      void sessions.learn(id).then((there) => (there ? undefined : this.opening.reload(id)));
      tellOthers(id);
      void this.catchUp(id);
    };
    const carrying = (this.carrying = new Carrying({ store, api, lines, sessions, ended, changed, now, wait, schedule }));
    const opening = (this.opening = new Opening({ ...options, store, sessions, carrying }));
    this.beginning = new Beginning({ ...options, store, sessions, opening });
  }

  get login(): Login {
    return this.options.login;
  }

  get line(): ReadonlySignal<LineState> {
    return this.options.lines.state;
  }

  /** Show `id`, and connect where a login lets the page. Returns a function that ends the watching of both. */
  start(id: string | null): () => void {
    this.opening.show(id);
    const ends = [effect(() => this.admit(this.login.wanted.value)), this.watchLine()];
    return () => ends.forEach((end) => end());
  }

  private admit(wanted: boolean): void {
    untracked(() => {
      if (wanted) return this.options.lines.close();
      this.options.lines.connect();
      this.opening.expect(this.store.currentId.peek());
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
    if (this.store.threads.peek().has(id)) void this.opening.reload(id);
  }

  /** See what nobody tells this page: whether the server drains, or works again, and what became of the open conversation on other devices. */
  async look(): Promise<void> {
    const { store, carrying } = this;
    if (!store.away.peek() && !this.login.wanted.peek()) void this.sessions.askHealth();
    const id = store.currentId.peek();
    const before = store.session.peek();
    if (id === null || before === undefined || carrying.busy(id)) return;
    const there = await this.sessions.learn(id);
    if (!there || JSON.stringify(before) !== JSON.stringify(store.session.peek())) await this.opening.reload(id);
  }

  /** After a turn of this page: what others said before it, while the page was too busy to read. */
  private async catchUp(id: string): Promise<void> {
    const { store, options, carrying } = this;
    if (carrying.busy(id)) return;
    const newest = await options.api.newest(id).catch(() => []); // read when the connection is back
    const shown = store.threads.peek().get(id);
    if (shown !== undefined && !carrying.busy(id) && !isShown(newest, shown)) await this.opening.reload(id);
  }

  /** The page may be left: keep what was written. False where some of it would be lost. */
  keep(): boolean {
    this.opening.keep();
    return this.options.drafts.kept && this.options.unsent.kept;
  }

  /** The page is being left. */
  leave(): void {
    this.deleting.leave();
    this.keep();
  }

  /** The server is asked about turns that say nothing. */
  watch(silence = SILENCE): void {
    this.carrying.watch(silence);
  }

  private async refresh(): Promise<void> {
    const id = this.store.currentId.peek();
    await Promise.all([this.sessions.askHealth(), this.sessions.list(), id === null ? undefined : this.opening.reload(id)]);
  }

  private async remove(id: string, idle: number): Promise<boolean> {
    if (!(await this.sessions.remove(id, idle))) {
      await this.sessions.list();
      return false;
    }
    this.carrying.drop(id);
    this.options.drafts.take(id);
    this.options.unsent.forget(id);
    this.options.wishes.write(id, null);
    if (this.store.currentId.value === id) this.opening.go(null);
    return true;
  }

  /** Read a chat from a file, and open it. */
  async importChat(text: string): Promise<void> {
    const id = await this.sessions.fromFile(text);
    if (id !== null) this.opening.go(id);
  }

  // A turn

  write(text: string): void {
    this.drafting.write(text);
  }

  /** Whether a message can be sent now. */
  get ready(): boolean {
    return this.store.ready.value;
  }

  /** Send the user's message; a new chat is created first. What else is being written stays. One that is sent again has its `key`. */
  async send(text: string, key = freshKey()): Promise<void> {
    const { store } = this;
    if (text.trim() === "" || !this.ready) return;
    const id = store.currentId.value ?? (await this.beginning.begin(text));
    if (id === null) return;
    if (store.currentId.value === id && ["", text].includes(store.draft.value)) this.write(""); // nor is the server told of it any more
    this.carrying.send(id, text, this.options.wishes.read(id) ?? {}, key);
  }

  /** What the open chat's message at `index` is to be instead, as far as that is written. */
  edited(index: number): string | null {
    const id = this.store.currentId.peek();
    return id === null ? null : this.options.drafts.readEdit(id, index);
  }

  edit(id: string, index: number, text: string | null): void {
    this.options.drafts.writeEdit(id, index, text);
  }

  /**
   * Say a message otherwise (`text`), or for null have an answer given again: on a branch, so that what was said before stays.
   * False where nothing came of it.
   */
  async branch(key: string, text: string | null): Promise<boolean> {
    const { store, options } = this;
    const thread = store.thread.peek();
    if (thread === undefined || !this.ready) return false;
    const wishes = store.wishes.peek();
    const made: Branch[] = [];
    store.starting.value = true;
    await this.sessions.report(async () => void made.push(...(await this.branching.branch(thread, key, text))));
    store.starting.value = false;
    for (const { id, text: said } of made) {
      options.wishes.write(id, wishes);
      if (store.currentId.peek() === thread.id) this.opening.enter(id);
      this.carrying.send(id, said, wishes, freshKey());
    }
    return made.length > 0;
  }

  /** How many tokens the last prompts of two branches share. */
  async shared(one: string, other: string): Promise<number> {
    return (await this.options.api.explain(one, other)).common_tokens;
  }

  /** Take a refused message off the page: to send it again, or to have its text in the composer. */
  retake(key: string, text: string, then: "send" | "edit"): void {
    const id = this.store.currentId.value;
    if (id === null || (then === "send" && !this.ready)) return;
    this.store.step(id, (thread) => withdraw(thread, key));
    this.options.unsent.drop(id, [key]);
    const draft = this.store.draft.peek();
    if (then === "send") void this.send(text, key);
    else this.write(draft === "" || draft === text ? text : `${text}\n\n${draft}`);
  }

  /** Stop the open conversation's turn, whatever it is doing. */
  stop(): void {
    const id = this.store.currentId.value;
    if (id !== null) this.carrying.stop(id);
  }
}

/** A name for a turn that no other has. */
function freshKey(): string {
  return `turn-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`; // `randomUUID` is only there over HTTPS
}
