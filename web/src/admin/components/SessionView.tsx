import { useEffect } from "preact/hooks";
import { clock, count, duration, percent } from "../figures";
import { hrefOf } from "../route";
import { rateOf } from "../store";
import type { TimelineTurn } from "../wire";
import { words as chatWords } from "../../words";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { Legend } from "./Meter";
import { Reveal } from "./Reveal";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const EVERY = 2_000;
const PHASES = ["queue", "prefill", "decode"] as const;
const SOURCES = ["device", "host", "disk", "computed"] as const;

/** A conversation's turns one below the other: how long each phase took, where the prompt came from, and why no more. */
export function SessionView() {
  const store = useStore();
  const { tenant, session } = store.route.value;
  const path = `v1/admin/sessions/${encodeURIComponent(tenant)}/${encodeURIComponent(session)}/turns`;
  useEffect(() => store.timeline.follow(path, EVERY), [store, path]);
  const timeline = store.timeline.value.value;
  const said = words.value;
  const longest = Math.max(1, ...(timeline?.turns ?? []).map((turn) => turn.total_ms ?? 0));
  const phases = PHASES.map((name) => ({ name, label: said.phases[name], value: 0 }));
  const sources = SOURCES.map((name) => ({ name, label: said.sources[name], value: 0 }));
  return (
    <section class="section">
      <p class="crumbs">
        <a href={hrefOf("reuse")}>{said.views.reuse}</a> / {tenant}
      </p>
      <div class="section-head">
        <h2 class="id">{session}</h2>
        <CopyCurl method="GET" path={path} />
      </div>
      <Trouble of={store.timeline} />
      {timeline?.turns.length === 0 && <p class="card table-empty">{said.noTurns}</p>}
      {timeline !== null && timeline.turns.length > 0 && (
        <>
          <div class="legends">
            <Legend parts={phases} show={() => ""} />
            <Legend parts={sources} show={() => ""} />
          </div>
          <ol class="turns">
            {timeline.turns.map((turn, i) => (
              <TurnRow key={turn.id} turn={turn} number={i + 1} longest={longest} />
            ))}
          </ol>
        </>
      )}
    </section>
  );
}

function TurnRow({ turn, number, longest }: { turn: TimelineTurn; number: number; longest: number }) {
  const said = words.value;
  const hit = (turn.device_tokens ?? 0) + (turn.host_tokens ?? 0) + (turn.disk_tokens ?? 0);
  const rate = rateOf({ hit_tokens: hit, attainable_tokens: turn.attainable_tokens ?? 0 });
  return (
    <li class="card turn">
      <div class="request-head">
        <b>{number}</b>
        <span class={`tag tag-${turn.status}`}>{said.states[turn.status] ?? turn.status}</span>
        <span class="quiet">{clock(turn.at, Date.now())}</span>
        <code class="id turn-id">{turn.id}</code>
      </div>
      <PhaseBar turn={turn} longest={longest} />
      <p class="figure-note">
        {said.turnTimes(ms(turn.queue_ms), ms(turn.prefill_ms), ms(turn.ttft_ms), ms(turn.total_ms), count(turn.output_tokens ?? 0))}
      </p>
      {turn.prompt_tokens !== null && (
        <>
          <SourceBar turn={turn} />
          <p class="figure-note">
            {said.turnPrompt(count(hit), count(turn.prompt_tokens))}
            {rate !== null && ` · ${said.turnRate(percent(rate))}`}
          </p>
        </>
      )}
      <Why turn={turn} />
      <Reveal turn={turn.id} />
    </li>
  );
}

function ms(value: number | null): string {
  return duration(value === null ? null : value / 1000);
}

/** Phases to the scale of the longest turn; what of the prefill the cache spared is shaded in it. */
function PhaseBar({ turn, longest }: { turn: TimelineTurn; longest: number }) {
  const queue = turn.queue_ms ?? 0;
  const prefill = turn.prefill_ms ?? 0;
  const decode = Math.max(0, (turn.total_ms ?? 0) - queue - prefill);
  const scale = 1000 / longest;
  const widths = { queue: queue * scale, prefill: prefill * scale, decode: decode * scale };
  let start = 0;
  return (
    <svg class="phases" viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true">
      <rect class="meter-rest" width="1000" height="1" />
      {PHASES.map((name) => {
        const x = start;
        start += widths[name];
        return <rect key={name} class={`fill-${name}`} x={x} width={widths[name]} height="1" />;
      })}
    </svg>
  );
}

function SourceBar({ turn }: { turn: TimelineTurn }) {
  let start = 0;
  return (
    <svg class="stacked" viewBox={`0 0 ${Math.max(1, turn.prompt_tokens ?? 1)} 1`} preserveAspectRatio="none" aria-hidden="true">
      <rect class="meter-rest" width={turn.prompt_tokens ?? 1} height="1" />
      {SOURCES.map((name) => {
        const x = start;
        const width = turn[`${name}_tokens`] ?? 0;
        start += width;
        return <rect key={name} class={`fill-${name}`} x={x} width={width} height="1" />;
      })}
    </svg>
  );
}

function Why({ turn }: { turn: TimelineTurn }) {
  const said = words.value;
  const lines: string[] = [];
  if (turn.error !== null) lines.push(said.failedWith(turn.error, said.errors[turn.error] ?? said.errorUnknown));
  if (turn.miss_reason !== null) lines.push((chatWords.miss as Record<string, string>)[turn.miss_reason] ?? turn.miss_reason);
  if (turn.diverged_at !== null) lines.push(said.divergedAt(count(turn.diverged_at)));
  if (turn.broken !== null) lines.push(said.brokenIn(turn.broken.role ?? "–", turn.broken.message_index === null ? "–" : count(turn.broken.message_index + 1)));
  if (turn.evicted_by !== null) lines.push(said.evictedBy(turn.evicted_by));
  return lines.length === 0 ? null : <p class="turn-why">{lines.join(" ")}</p>;
}
