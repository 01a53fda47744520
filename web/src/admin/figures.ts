/** Figures in words, in the language that is chosen. */
import { locale } from "./words";

/** By language and options: to make one takes far longer than to use it, and a table has thousands of figures. */
const formats = new Map<string, Intl.NumberFormat>();

function number(value: number, options: Intl.NumberFormatOptions): string {
  const name = locale.value + JSON.stringify(options);
  const format = formats.get(name) ?? new Intl.NumberFormat(locale.value, options);
  formats.set(name, format);
  return format.format(value);
}

export function count(value: number): string {
  return number(value, { maximumFractionDigits: 0 });
}

/** `12.3K` from ten thousand on. */
export function short(value: number): string {
  return value < 10_000 ? number(value, { maximumFractionDigits: value < 10 ? 1 : 0 }) : number(value, { notation: "compact", maximumFractionDigits: 1 });
}

export function percent(share: number | null): string {
  return share === null ? "–" : number(share, { style: "percent", maximumFractionDigits: share > 0.995 && share < 1 ? 1 : 0 });
}

/** `84 ms`, `1.3 s`, `5 min`, `3.2 h`. */
export function duration(seconds: number | null): string {
  if (seconds === null) return "–";
  if (seconds < 0.0095) return `${number(seconds * 1000, { maximumFractionDigits: 1 })} ms`;
  if (seconds < 0.9995) return `${count(seconds * 1000)} ms`;
  if (seconds < 119.5) return `${number(seconds, { maximumFractionDigits: seconds < 9.95 ? 1 : 0 })} s`;
  if (seconds < 7170) return `${count(seconds / 60)} min`;
  if (seconds < 172_800) return `${number(seconds / 3600, { maximumFractionDigits: 1 })} h`;
  return `${count(seconds / 86_400)} d`;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(value: number): string {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10));
  return `${number(value / 1024 ** power, { maximumFractionDigits: power === 0 ? 0 : 1 })} ${UNITS[power]}`;
}

/** The time of day, with the date where it is another day's. */
export function clock(at: number, now: number): string {
  const sameDay = new Date(at).toDateString() === new Date(now).toDateString();
  const time: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
  return new Intl.DateTimeFormat(locale.value, sameDay ? time : { month: "short", day: "numeric", ...time }).format(at);
}
