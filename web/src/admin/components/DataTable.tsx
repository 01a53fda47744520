import type { ComponentChildren } from "preact";
import { type Column, csv, download, filtered, sorted } from "../rows";
import { words } from "../words";
import { useStore } from "./context";

export interface Shown<R> extends Column<R> {
  label: string;
  show?: (row: R) => ComponentChildren;
}

/** Rows that are drawn: the filter finds the others, and all are in the CSV. */
const MOST = 500;

/** A table whose order and filter stand in the address, so that what is seen can be linked to. */
export function DataTable<R>({ name, caption, rows: told, all, columns, id, extra }: {
  name: string;
  caption: string;
  /** Undefined until the server has told them. */
  rows: readonly R[] | undefined;
  /** How many the server has, where that may be more. */
  all?: number | undefined;
  columns: readonly Shown<R>[];
  id: (row: R) => string;
  extra?: ComponentChildren;
}) {
  const store = useStore();
  const { query } = store.route.value;
  const rows = told ?? [];
  const find = query.get("find") ?? "";
  const by = columns.find((column) => column.name === query.get("sort"));
  const down = query.get("down") !== "0";
  const kept = filtered(rows, columns, find);
  const wanted = by === undefined ? kept : sorted(kept, by.value, down);
  const shown = wanted.slice(0, MOST);
  const said = words.value;
  return (
    <div>
      <div class="tools">
        {extra}
        <input
          class="field tools-find"
          type="search"
          aria-label={said.filter}
          placeholder={said.filter}
          value={find}
          onInput={(event) => store.ask({ find: event.currentTarget.value })}
        />
        <button
          type="button"
          class="button"
          onClick={() => download(`chatpager-${name}.csv`, "text/csv;charset=utf-8", csv(wanted, columns))}
        >
          CSV
        </button>
      </div>
      <div class="card table-box" tabIndex={0} role="group" aria-label={caption}>
        <table class="table">
          <thead>
            <tr>
              {columns.map((column) => (
                <Head key={column.name} column={column} sorted={column === by ? (down ? "descending" : "ascending") : undefined} />
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map((row) => (
              <tr key={id(row)}>
                {columns.map((column) => (
                  <td key={column.name} class={column.numeric ? "number" : undefined}>
                    {column.show?.(row) ?? column.value(row) ?? "–"}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
        {told === undefined && <p class="table-empty place-late">{said.waitingForFirst}</p>}
        {told !== undefined && shown.length === 0 && <p class="table-empty">{told.length === 0 ? said.noRows : said.noMatch}</p>}
      </div>
      <p class="hint" role="status">
        {said.rowCount(String(shown.length), String(all ?? rows.length))}
      </p>
    </div>
  );
}

function Head<R>({ column, sorted }: { column: Shown<R>; sorted: "ascending" | "descending" | undefined }) {
  const store = useStore();
  const next = sorted === undefined ? (column.numeric ? "1" : "0") : sorted === "descending" ? "0" : "1";
  return (
    <th scope="col" class={column.numeric ? "number" : undefined} aria-sort={sorted ?? "none"}>
      <button type="button" class="sort" onClick={() => store.ask({ sort: column.name, down: next })}>
        {column.label}
        <span aria-hidden="true" class="sort-mark">
          {sorted === undefined ? "" : sorted === "descending" ? "↓" : "↑"}
        </span>
      </button>
    </th>
  );
}
