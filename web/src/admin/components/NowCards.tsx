import { count, duration, percent, short } from "../figures";
import { evicted } from "../trend";
import type { Moment } from "../trend";
import type { Snapshot } from "../wire";
import { words } from "../words";
import { Sparkline } from "./Sparkline";
import { useStore } from "./context";

interface Card {
  name: string;
  figure: string;
  note: string;
  line?: (moment: Moment) => number;
}

/** What the server does at this moment, each with its last minutes. */
export function NowCards() {
  const store = useStore();
  const snapshot = store.snapshot.value;
  const moments = store.moments.value;
  if (snapshot === null) return null;
  return (
    <section class="section" aria-labelledby="now">
      <h2 id="now">{words.value.now}</h2>
      <ul class="cards cards-small">
        {cards(snapshot, moments.at(-1)).map((card) => (
          <li key={card.name} class="card figure">
            <h3>{card.name}</h3>
            <p class="figure-main figure-small">{card.figure}</p>
            <p class="figure-note">{card.note}</p>
            {card.line !== undefined && <Sparkline values={moments.map(card.line)} />}
          </li>
        ))}
      </ul>
    </section>
  );
}

function cards(snapshot: Snapshot, last: Moment | undefined): Card[] {
  const { cards } = words.value;
  const { engine } = snapshot;
  const read = (last?.device ?? 0) + (last?.host ?? 0) + (last?.disk ?? 0) + (last?.computed ?? 0);
  return [
    {
      name: cards.batch,
      figure: count(engine?.running ?? 0),
      note: cards.batchNote(short(last?.generated ?? 0)),
      line: (moment) => moment.running,
    },
    {
      name: cards.queue,
      figure: count(engine?.waiting ?? 0),
      note: cards.queueNote(duration(snapshot.queue_age)),
      line: (moment) => moment.waiting,
    },
    {
      name: cards.blocks,
      figure: engine === null ? "–" : percent(1 - engine.blocks.free / Math.max(1, engine.blocks.total)),
      note: engine === null ? "–" : cards.blocksNote(count(engine.blocks.active), count(engine.blocks.total)),
      line: (moment) => moment.used,
    },
    {
      name: cards.prompts,
      figure: cards.perSecond(short(read)),
      note: cards.promptsNote(short(last?.computed ?? 0)),
      line: (moment) => moment.device + moment.host + moment.disk + moment.computed,
    },
    {
      name: cards.evictions,
      figure: cards.perSecond(short(last?.evicted ?? 0)),
      note: cards.evictionsNote(count(evicted(snapshot)), count(engine?.preemptions ?? 0)),
      line: (moment) => moment.evicted,
    },
    {
      name: cards.lag,
      figure: duration(snapshot.lag.most),
      note: cards.lagNote(duration(snapshot.lag.p50)),
      line: (moment) => moment.lag,
    },
    {
      name: cards.sockets,
      figure: count(snapshot.sockets),
      note: cards.socketsNote(count(snapshot.resumed), count(snapshot.resumes_lost)),
    },
    {
      name: cards.refused,
      figure: count(Object.values(snapshot.refused).reduce((sum, one) => sum + one, 0)),
      note: Object.entries(snapshot.refused).map(([code, times]) => `${code} ${count(times)}`).join(", ") || cards.refusedNone,
    },
  ];
}
