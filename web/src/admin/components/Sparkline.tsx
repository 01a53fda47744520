const WIDTH = 120;

/** The last minutes of one figure; the figure itself stands beside it. */
export function Sparkline({ values }: { values: readonly number[] }) {
  const most = Math.max(1e-9, ...values);
  const step = WIDTH / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(29 - (28 * value) / most).toFixed(1)}`).join(" ");
  return (
    <svg class="sparkline" viewBox={`0 0 ${WIDTH} 30`} preserveAspectRatio="none" aria-hidden="true">
      {values.length > 1 && (
        <>
          <polygon points={`0,30 ${points} ${WIDTH},30`} />
          <polyline points={points} />
        </>
      )}
    </svg>
  );
}
