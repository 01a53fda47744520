/** A share as a short bar; the figure beside it says the same. */
export function Meter({ share, kind = "accent" }: { share: number; kind?: "accent" | "cold" }) {
  return (
    <svg class={`meter meter-${kind}`} viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
      <rect class="meter-rest" width="100" height="1" />
      <rect class="meter-share" width={100 * Math.min(1, Math.max(0, share))} height="1" />
    </svg>
  );
}

export interface Part {
  name: string;
  label: string;
  value: number;
}

/** Parts of a whole side by side; what is left stays empty. Each is told in the legend, too. */
export function StackedBar({ parts, whole }: { parts: readonly Part[]; whole: number }) {
  let start = 0;
  return (
    <svg class="stacked" viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true">
      <rect class="meter-rest" width="1000" height="1" />
      {parts.map((part) => {
        const x = start;
        const width = (1000 * part.value) / Math.max(1, whole);
        start += width;
        return <rect key={part.name} class={`fill-${part.name}`} x={x} width={width} height="1" />;
      })}
    </svg>
  );
}

export function Legend({ parts, show }: { parts: readonly Part[]; show: (value: number) => string }) {
  return (
    <ul class="legend">
      {parts.map((part) => (
        <li key={part.name}>
          <i class={`swatch fill-${part.name}`} aria-hidden="true" />
          {part.label} <b>{show(part.value)}</b>
        </li>
      ))}
    </ul>
  );
}
