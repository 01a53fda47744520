/** Wire events, gathered so that the page renders at most once per animation frame however fast they come. */
import type { ServerEvent } from "./events";

/** The next frame, or a quarter second later where frames stand still (a tab in the background). */
export function nextFrame(run: () => void): void {
  let done = false;
  const once = () => {
    if (done) return;
    done = true;
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    run();
  };
  const frame = requestAnimationFrame(once);
  const timer = setTimeout(once, 250);
}

const waiting = new Set<() => void>();
let going = false;

/** A step of much work: of all of them one is taken a frame. Returns the way to take this one off again. */
export function inTurn(step: () => void): () => void {
  waiting.add(step);
  if (!going) nextFrame(go);
  going = true;
  return () => void waiting.delete(step);
}

function go(): void {
  const [step] = waiting;
  going = step !== undefined;
  if (step === undefined) return;
  waiting.delete(step);
  nextFrame(go); // before the step, which may throw: the others still get their turn
  step();
}

/**
 * The next frame, but never so soon that drawing takes more than half of the time: what a frame cost, that long it is left alone
 * afterwards. A long answer on a slow machine is drawn more seldom, and the page can be used meanwhile.
 */
export function paced(next: (run: () => void) => void = nextFrame, now: () => number = () => performance.now()): (run: () => void) => void {
  let rested = 0;
  return (run) => {
    const draw = () =>
      next(() => {
        const begun = now();
        run();
        setTimeout(() => (rested = 2 * now() - begun)); // a timer that was set in a frame comes when it has been painted
      });
    const rest = rested - now();
    if (rest > 0) setTimeout(draw, rest);
    else draw();
  };
}

export class Inbox {
  private waiting: [string, ServerEvent][] = [];
  private scheduled = false;

  constructor(
    private readonly apply: (events: readonly [string, ServerEvent][]) => void,
    private readonly schedule: (run: () => void) => void = nextFrame,
  ) {}

  push(id: string, event: ServerEvent): void {
    this.waiting.push([id, event]);
    if (this.scheduled) return;
    this.scheduled = true;
    this.schedule(() => this.flush());
  }

  /** Apply what waits now, in the order it came. */
  flush(): void {
    this.scheduled = false;
    const events = this.waiting;
    this.waiting = [];
    if (events.length > 0) this.apply(events);
  }
}
