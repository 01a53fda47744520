import { count, duration } from "../figures";
import type { Quantiles } from "../wire";
import { words } from "../words";
import { useStore } from "./context";

/** Waiting times as percentiles: to the first token by whether the cache helped, and from one token to the next. */
export function Latency() {
  const snapshot = useStore().snapshot.value;
  if (snapshot === null) return null;
  const said = words.value;
  const rows: [string, string, Quantiles | null][] = [
    [said.latency.warm, said.latency.ofFifteen, snapshot.first_token_warm],
    [said.latency.cold, said.latency.ofFifteen, snapshot.first_token_cold],
    [said.latency.between, said.latency.ofStart, snapshot.engine?.between_tokens ?? null],
  ];
  return (
    <section class="section" aria-labelledby="latency">
      <h2 id="latency">{said.latency.title}</h2>
      <div class="card table-box" tabIndex={0} role="group" aria-label={said.latency.title}>
        <table class="table">
          <thead>
            <tr>
              <th scope="col">{said.latency.what}</th>
              {["p50", "p95", "p99", said.latency.count].map((name) => (
                <th key={name} scope="col" class="number">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(([name, span, found]) => (
              <tr key={name}>
                <th scope="row">
                  {name} <span class="quiet">{span}</span>
                </th>
                <td class="number">{duration(found?.p50 ?? null)}</td>
                <td class="number">{duration(found?.p95 ?? null)}</td>
                <td class="number">{duration(found?.p99 ?? null)}</td>
                <td class="number">{count(found?.count ?? 0)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
