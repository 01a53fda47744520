import { clock, count, duration } from "../figures";
import { sessionHref } from "../route";
import type { Push, Snapshot } from "../wire";
import { words } from "../words";
import { Meter } from "./Meter";
import { useStore } from "./context";

const SHOWN = 20;

/** Why the cache gave no more: evictions by class, misses by reason, and who pushed out whom. */
export function Losses() {
  const snapshot = useStore().snapshot.value;
  if (snapshot === null) return null;
  const said = words.value;
  return (
    <section class="section" aria-labelledby="losses">
      <h2 id="losses">{said.losses.title}</h2>
      <div class="cards">
        <Bars title={said.losses.evictions} counts={snapshot.engine?.evicted_blocks ?? {}} name={(kind) => said.codes[kind as "dead"] ?? kind} />
        <Bars title={said.losses.misses} counts={snapshot.misses} name={(reason) => said.missNames[reason] ?? reason} />
        <Bars title={said.losses.leases} counts={snapshot.engine?.lease_events ?? {}} name={(kind) => said.leaseEvents[kind] ?? kind} />
      </div>
      <Pushes snapshot={snapshot} />
    </section>
  );
}

function Bars({ title, counts, name }: { title: string; counts: Record<string, number>; name: (key: string) => string }) {
  const rows = Object.entries(counts).filter(([, times]) => times > 0);
  const most = Math.max(1, ...rows.map(([, times]) => times));
  return (
    <div class="card figure">
      <h3>{title}</h3>
      {rows.length === 0 && <p class="figure-note">{words.value.losses.none}</p>}
      <dl class="bars">
        {rows.map(([key, times]) => (
          <div key={key}>
            <dt>{name(key)}</dt>
            <dd>
              <Meter share={times / most} />
              <span>{count(times)}</span>
            </dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

function Pushes({ snapshot }: { snapshot: Snapshot }) {
  const said = words.value;
  const { columns } = said;
  if (snapshot.pushes.length === 0) return <p class="hint">{said.losses.nobody}</p>;
  return (
    <div class="card table-box pushes" tabIndex={0} role="group" aria-label={said.losses.pushes}>
      <table class="table">
        <caption>{said.losses.pushes}</caption>
        <thead>
          <tr>
            {[columns.time, columns.by, columns.victim, columns.worth, columns.before].map((label) => (
              <th key={label} scope="col">
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {snapshot.pushes.slice(0, SHOWN).map((push, i) => (
            <PushRow key={i} push={push} now={snapshot.at} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function PushRow({ push, now }: { push: Push; now: number }) {
  const said = words.value;
  return (
    <tr>
      <td>{clock(push.at, now)}</td>
      <td>{push.by === null || push.by_tenant === null ? said.losses.unknown : <a class="id" href={sessionHref(push.by_tenant, push.by)}>{push.by}</a>}</td>
      <td>
        <a class="id" href={sessionHref(push.tenant, push.victim)}>
          {push.victim}
        </a>
      </td>
      <td>
        {said.codes[push.eviction_class.toLowerCase() as "dead"] ?? push.eviction_class}
        {push.lease_revoked && ` · ${said.losses.revoked}`}
      </td>
      <td class="number">{duration(push.seconds_ago)}</td>
    </tr>
  );
}
