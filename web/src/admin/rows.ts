/** Tables as data: what is sorted, what is left of it by a filter, and the same as CSV. */

export type Cell = string | number | null;

export interface Column<R> {
  name: string;
  /** What it is sorted by and what stands in a CSV file. */
  value: (row: R) => Cell;
  numeric?: boolean;
}

/** Numbers by size, text by the reader's alphabet; what is missing comes last, whichever way. */
export function sorted<R>(rows: readonly R[], value: (row: R) => Cell, down: boolean): R[] {
  const order = new Intl.Collator(undefined, { numeric: true });
  return [...rows].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    const least = typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b));
    return down ? -least : least;
  });
}

/** Rows of which every word of `wanted` stands in some cell. */
export function filtered<R>(rows: readonly R[], columns: readonly Column<R>[], wanted: string): R[] {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return [...rows];
  return rows.filter((row) => {
    const text = columns.map((column) => String(column.value(row) ?? "")).join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** RFC 4180; a text that a spreadsheet would run as a formula begins with an apostrophe. */
export function csv<R>(rows: readonly R[], columns: readonly Column<R>[]): string {
  const lines = [columns.map((column) => column.name), ...rows.map((row) => columns.map((column) => column.value(row)))];
  return lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

function field(value: Cell): string {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Hand a file to the browser. */
export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
