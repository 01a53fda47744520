import { useSignal } from "@preact/signals";
import { percent, short } from "../figures";
import type { Columns } from "../store";
import { locale, words } from "../words";

const WIDTH = 1000;
const HEIGHT = 200;
const TIMES = 5;

/**
 * Attainable and hit tokens as steps, and the rate between them as points of a line with a scale of its own.
 *
 * Drawn here, and not by uPlot (1.6.32: 22 KB gzipped), because both pages together may have 150 KB and the chart would take
 * more than what is left for it; there are at most some hundred points, one redraw a second.
 */
export function HitChart({ data }: { data: Columns }) {
  const [times, attainable, hit, rate] = data;
  const pointed = useSignal<number | null>(null);
  const most = Math.max(1, ...attainable);
  const step = WIDTH / Math.max(1, times.length);
  const place = pointed.value === null || pointed.value >= times.length ? null : pointed.value;
  return (
    <>
      <div class="plot">
        <Scale labels={[short(most), short(most / 2), "0"]} />
        <svg
          class="plot-area"
          viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
          preserveAspectRatio="none"
          onPointerMove={(event) => (pointed.value = Math.floor((event.offsetX / event.currentTarget.clientWidth) * times.length))}
          onPointerLeave={() => (pointed.value = null)}
        >
          {[0, 0.5, 1].map((share) => (
            <line key={share} class="plot-line" x1={0} x2={WIDTH} y1={share * HEIGHT} y2={share * HEIGHT} />
          ))}
          <path class="plot-attainable" d={steps(attainable, step, most)} />
          <path class="plot-hit" d={steps(hit, step, most)} />
          <polyline class="plot-rate" points={line(rate, step)} />
          {place !== null && <line class="plot-pointed" x1={(place + 0.5) * step} x2={(place + 0.5) * step} y1={0} y2={HEIGHT} />}
        </svg>
        <Scale labels={[1, 0.5, 0].map(percent)} />
      </div>
      <div class="plot-times">
        {ticks(times).map((time) => (
          <span key={time}>{clockOf(time)}</span>
        ))}
      </div>
      <Told data={data} place={place} />
    </>
  );
}

function Scale({ labels }: { labels: string[] }) {
  return (
    <div class="plot-scale">
      {labels.map((label, i) => (
        <span key={i}>{label}</span>
      ))}
    </div>
  );
}

/** The legend, with the figures of the step that is pointed at. */
function Told({ data: [times, attainable, hit, rate], place }: { data: Columns; place: number | null }) {
  const { series } = words.value;
  const of = (values: readonly (number | null)[], write: (value: number) => string) => {
    const value = place === null ? null : values[place];
    return value === null || value === undefined ? "" : write(value);
  };
  return (
    <ul class="legend">
      <li>
        <i class="swatch plot-attainable" /> {series.attainable} <b>{of(attainable, short)}</b>
      </li>
      <li>
        <i class="swatch plot-hit" /> {series.hit} <b>{of(hit, short)}</b>
      </li>
      <li>
        <i class="swatch plot-rate" /> {series.rate} <b>{of(rate, percent)}</b>
      </li>
      <li>{of(times, clockOf)}</li>
    </ul>
  );
}

function steps(values: readonly number[], step: number, most: number): string {
  const tops = values.map((value, i) => `V${(HEIGHT - (HEIGHT * value) / most).toFixed(1)}H${((i + 1) * step).toFixed(1)}`);
  return `M0,${HEIGHT}${tops.join("")}V${HEIGHT}Z`;
}

/** Through the steps that have a rate; a single one is drawn as wide as it is. */
function line(rates: readonly (number | null)[], step: number): string {
  const y = (rate: number) => (HEIGHT - HEIGHT * rate).toFixed(1);
  return rates.flatMap((rate, i) => (rate === null ? [] : [`${(i * step).toFixed(1)},${y(rate)} ${((i + 1) * step).toFixed(1)},${y(rate)}`])).join(" ");
}

function ticks(times: readonly number[]): number[] {
  const last = times.length - 1;
  return Array.from({ length: TIMES }, (_, i) => times[Math.round((last * i) / (TIMES - 1))] ?? 0);
}

function clockOf(seconds: number): string {
  return new Intl.DateTimeFormat(locale.value, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }).format(seconds * 1000);
}
