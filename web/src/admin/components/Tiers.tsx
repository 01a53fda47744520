import { bytes, count, duration, percent, short } from "../figures";
import type { EngineFigures, Tier } from "../wire";
import { words } from "../words";
import { Legend, StackedBar } from "./Meter";
import { useStore } from "./context";

/** How full each tier is, and what comes from it. */
export function Tiers() {
  const store = useStore();
  const engine = store.snapshot.value?.engine;
  const last = store.moments.value.at(-1);
  if (engine === null || engine === undefined) return null;
  return (
    <section class="section" aria-labelledby="tiers">
      <h2 id="tiers">{words.value.tiers.title}</h2>
      <ul class="cards">
        {engine.tiers.map((tier) => (
          <li key={tier.name} class="card figure">
            <TierCard tier={tier} engine={engine} flow={last?.[tier.name] ?? 0} />
          </li>
        ))}
      </ul>
    </section>
  );
}

function TierCard({ tier, engine, flow }: { tier: Tier; engine: EngineFigures; flow: number }) {
  const { tiers, cards } = words.value;
  const off = tier.capacity_bytes === 0;
  const device = tier.name === "device";
  const { blocks } = engine;
  const parts = device
    ? (["active", "pinned", "leased", "cached"] as const).map((name) => ({ name, label: tiers.parts[name], value: blocks[name] }))
    : [{ name: tier.name, label: tiers.kept, value: tier.bytes }];
  return (
    <>
      <h3>{tiers.names[tier.name]}</h3>
      <p class="figure-main figure-small">{off ? tiers.off : percent(tier.bytes / tier.capacity_bytes)}</p>
      <p class="figure-note">{off ? " " : `${bytes(tier.bytes)} / ${bytes(tier.capacity_bytes)}`}</p>
      <StackedBar parts={parts} whole={device ? blocks.total : tier.capacity_bytes} />
      {device && <Legend parts={parts} show={count} />}
      <dl class="pairs">
        <div>
          <dt>{tiers.flow}</dt>
          <dd>{cards.perSecond(short(flow))}</dd>
        </div>
        <div>
          <dt>{tiers.hit}</dt>
          <dd>{short(tier.hit_tokens)}</dd>
        </div>
        {tier.load_seconds !== null && (
          <div>
            <dt>{tiers.load}</dt>
            <dd>{duration(tier.load_seconds)}</dd>
          </div>
        )}
      </dl>
    </>
  );
}
