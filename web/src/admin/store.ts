/** The one place of the admin page's state, and the few ways to change it. */
import { computed, effect, signal, untracked } from "@preact/signals";
import { reasonOf } from "../calls";
import type { Login } from "../login";
import type { AdminApi } from "./api";
import { Feed, type FeedState } from "./feed";
import { LiveMap } from "./map";
import { Polled } from "./polled";
import { type Route, hashOf, parseRoute } from "./route";
import { type Moment, grown } from "./trend";
import type { Block, History, Leases, Point, Replicas, Settings, Snapshot, Tables, Tenants, Timeline } from "./wire";

export const RANGES = [60, 900, 86_400] as const;
export type Range = (typeof RANGES)[number];

export class AdminStore {
  readonly route = signal<Route>(parseRoute(""));
  readonly feed = signal<FeedState>("connecting");
  readonly snapshot = signal<Snapshot | null>(null);
  readonly moments = signal<readonly Moment[]>([]);
  readonly range = signal<Range>(900);
  readonly history = signal<History | null>(null);
  /** What an act came to, told once. */
  readonly notice = signal<{ text: string; bad: boolean } | null>(null);
  readonly paused = computed(() => this.feed.value === "paused");
  readonly tables = this.polled<Tables>();
  readonly leases = this.polled<Leases>();
  readonly timeline = this.polled<Timeline>();
  readonly tenants = this.polled<Tenants>();
  readonly replicas = this.polled<Replicas>();
  readonly settings = this.polled<Settings>();
  readonly map: LiveMap;
  /** The block that is looked at. */
  readonly block = signal<Block | null>(null);
  private pointed = 0;
  private keeps = false;
  private readonly stream: Feed;

  constructor(
    readonly api: AdminApi,
    readonly login: Login,
    private readonly schedule: (run: () => void) => void = (run) => run(),
    private readonly replace: (hash: string) => void = () => undefined,
  ) {
    this.map = new LiveMap(api, () => this.rests());
    this.stream = new Feed(
      (signal) => api.live(signal),
      (told) => this.schedule(() => this.hear(told)),
      (state) => {
        this.feed.value = state;
        if (state === "locked") void login.ask();
      },
    );
  }

  /** Show what there is whenever a login lets the page. */
  open(): void {
    effect(() => {
      const wanted = this.login.wanted.value;
      untracked(() => (wanted ? this.stop() : this.start()));
    });
  }

  start(): void {
    if (this.login.wanted.peek()) return void this.login.ask(); // another page may have logged in
    this.stream.start();
    void this.readHistory();
  }

  stop(): void {
    this.stream.stop();
  }

  pause(paused: boolean): void {
    if (paused) {
      this.stream.stop();
      this.feed.value = "paused";
    } else this.start();
  }

  go(hash: string): void {
    const before = this.route.peek();
    this.route.value = parseRoute(hash);
    if (this.route.value.view !== before.view) this.notice.value = null; // it was told where it belongs
  }

  /** Change the query of the address, without a step in the browser's history; an empty value goes. */
  ask(changes: Record<string, string>): void {
    const route = this.route.peek();
    const query = new URLSearchParams(route.query);
    for (const [name, value] of Object.entries(changes)) {
      if (value === "") query.delete(name);
      else query.set(name, value);
    }
    this.route.value = { ...route, query };
    this.replace(hashOf(this.route.value));
  }

  /** Look at a block. One that is `kept` stays until the next that is. */
  point(id: number, kept: boolean): void {
    if (!Number.isInteger(id) || id < 1 || id === this.pointed && !kept || this.keeps && !kept) return;
    this.keeps = kept && !(this.keeps && id === this.pointed);
    this.pointed = id;
    void this.readBlock(id);
  }

  private async readBlock(id: number): Promise<void> {
    await this.settled();
    if (id !== this.pointed) return; // the pointer has gone on
    try {
      const block = await this.api.json<Block>("GET", `v1/admin/blocks/${id}`);
      if (id === this.pointed) this.block.value = block;
    } catch {
      return; // the map says what is wrong with the connection
    }
  }

  private settled(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 60));
  }

  private rests(): boolean {
    return this.paused.peek() || (typeof document !== "undefined" && document.hidden);
  }

  private polled<T>(): Polled<T> {
    return new Polled<T>((path) => this.api.json("GET", path), () => this.rests());
  }

  look(range: Range): void {
    this.range.value = range;
    this.history.value = null;
    void this.readHistory();
  }

  async readHistory(): Promise<void> {
    const range = this.range.value;
    try {
      const told = await this.api.history(range);
      if (range === this.range.value) this.history.value = told;
    } catch {
      return; // the stream says what is wrong with the connection
    }
  }

  /** Do something to the server, and say what came of it. */
  async act(done: string, what: () => Promise<unknown>): Promise<boolean> {
    try {
      await what();
      this.notice.value = { text: done, bad: false };
      return true;
    } catch (error) {
      this.notice.value = { text: reasonOf(error), bad: true };
      return false;
    }
  }

  private hear(told: Snapshot): void {
    if (this.paused.value) return;
    this.moments.value = grown(this.moments.value, this.snapshot.value, told);
    const before = this.snapshot.value;
    this.snapshot.value = told;
    const grew = before === null || totalTurns(before) !== totalTurns(told) || stepOf(this.history.value, before) !== stepOf(this.history.value, told);
    if (grew) void this.readHistory();
  }
}

function totalTurns(told: Snapshot): number {
  return told.windows[0]?.turns ?? 0;
}

/** Which step of the chart a snapshot falls into: where that is another one the chart moves on. */
function stepOf(history: History | null, told: Snapshot): number {
  return history === null ? 0 : Math.floor(told.at / 1000 / history.step);
}

/** One entry a step: seconds, attainable tokens, hit ones, and the rate where there is one. */
export type Columns = [number[], number[], number[], (number | null)[]];

/** The chart's columns. */
export function columns(history: History): Columns {
  const { at, seconds, step } = history;
  const last = Math.floor(at / 1000 / step) * step;
  const found = new Map<number, Point>(history.points.map((point) => [point.at / 1000, point]));
  const times = Array.from({ length: Math.floor(seconds / step) }, (_, i) => last - seconds + step * (i + 1));
  const of = (time: number) => found.get(time);
  return [
    times,
    times.map((time) => of(time)?.attainable_tokens ?? 0),
    times.map((time) => of(time)?.hit_tokens ?? 0),
    times.map((time) => rateOf(of(time))),
  ];
}

/** Hit / attainable; null where nothing could have been hit. */
export function rateOf(sums: { hit_tokens: number; attainable_tokens: number } | undefined): number | null {
  return sums === undefined || sums.attainable_tokens === 0 ? null : sums.hit_tokens / sums.attainable_tokens;
}
