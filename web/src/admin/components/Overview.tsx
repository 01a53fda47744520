import { count, duration, percent, short } from "../figures";
import { RANGES, columns, rateOf } from "../store";
import type { Window } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { HitChart } from "./HitChart";
import { Latency } from "./Latency";
import { Losses } from "./Losses";
import { NowCards } from "./NowCards";
import { Replicas } from "./Replicas";
import { Tiers } from "./Tiers";
import { useStore } from "./context";

export function Overview() {
  const snapshot = useStore().snapshot.value;
  if (snapshot === null) return null;
  const order = [...RANGES, 0];
  const windows = order.flatMap((seconds) => snapshot.windows.filter((one) => one.seconds === seconds));
  return (
    <>
      <section class="section" aria-labelledby="hit-rate">
        <div class="section-head">
          <h2 id="hit-rate" title={words.value.hitRateMeaning}>
            {words.value.hitRate}
          </h2>
          <CopyCurl method="GET" path="v1/admin/snapshot" />
        </div>
        <ul class="cards">
          {windows.map((window) => (
            <HitCard key={window.seconds} window={window} />
          ))}
        </ul>
        <p class="hint">{words.value.hitRateMeaning}</p>
      </section>
      <OverTime />
      <NowCards />
      <Replicas />
      <Latency />
      <Tiers />
      <Losses />
    </>
  );
}

function HitCard({ window }: { window: Window }) {
  const rate = rateOf(window);
  const said = words.value;
  return (
    <li class="card figure">
      <h3>{said.windows[window.seconds]}</h3>
      <p class="figure-main">{percent(rate)}</p>
      <p class="figure-note">{rate === null ? said.nothingToHit : said.ofAttainable(short(window.hit_tokens), short(window.attainable_tokens))}</p>
      <dl class="pairs">
        <div>
          <dt>{said.saved}</dt>
          <dd title={count(window.hit_tokens)}>
            {short(window.hit_tokens)} <span class="quiet saved-time">{said.savedSeconds(duration(window.saved_seconds))}</span>
          </dd>
        </div>
        <div>
          <dt>{said.turns}</dt>
          <dd>
            {count(window.turns)} {window.failed > 0 && <span class="bad">{said.failed(count(window.failed))}</span>}
          </dd>
        </div>
      </dl>
    </li>
  );
}

function OverTime() {
  const store = useStore();
  const history = store.history.value;
  const said = words.value;
  const sum = { hit_tokens: 0, attainable_tokens: 0 };
  for (const point of history?.points ?? []) {
    sum.hit_tokens += point.hit_tokens;
    sum.attainable_tokens += point.attainable_tokens;
  }
  return (
    <section class="section" aria-labelledby="over-time">
      <div class="section-head">
        <h2 id="over-time">{said.overTime}</h2>
        <div class="choice" role="group" aria-label={said.range}>
          {RANGES.map((range) => (
            <button key={range} type="button" aria-pressed={store.range.value === range} onClick={() => store.look(range)}>
              {said.ranges[range]}
            </button>
          ))}
        </div>
      </div>
      <div class="card chart" role="img" aria-label={said.chartText(percent(rateOf(sum)), count(sum.hit_tokens), count(sum.attainable_tokens))}>
        {history !== null && <HitChart data={columns(history)} />}
      </div>
    </section>
  );
}
