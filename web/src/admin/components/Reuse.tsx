import { useEffect } from "preact/hooks";
import { clock, count, duration, percent, short } from "../figures";
import { sessionHref } from "../route";
import { rateOf } from "../store";
import type { LeaseTold, PrefixRow, SessionRow, TenantRow } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { DataTable, type Shown } from "./DataTable";
import { Meter } from "./Meter";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const EVERY = 2_000;
const PATH = "v1/admin/tables";
const KINDS = ["sessions", "tenants", "prefixes"] as const;
type Kind = (typeof KINDS)[number];

export function Reuse() {
  const store = useStore();
  useEffect(() => store.tables.follow(PATH, EVERY), [store]);
  const tables = store.tables.value.value;
  const asked = store.route.value.query.get("of");
  const kind: Kind = KINDS.find((name) => name === asked) ?? "sessions";
  const said = words.value;
  const choice = (
    <>
      <div class="choice" role="group" aria-label={said.tables}>
        {KINDS.map((name) => (
          <button key={name} type="button" aria-pressed={name === kind} onClick={() => store.ask({ of: name, sort: "", down: "" })}>
            {said.of[name]}
          </button>
        ))}
      </div>
      <CopyCurl method="GET" path={PATH} />
    </>
  );
  const given = { name: kind, caption: said.of[kind], extra: choice };
  return (
    <section class="section">
      <Trouble of={store.tables} />
      <h2>
        {said.of[kind]} <small class="quiet">{said.latency.ofStart}</small>
      </h2>
      {kind === "sessions" && <DataTable {...given} rows={tables?.sessions} columns={sessionColumns(tables?.sessions)} id={(row) => `${row.tenant} ${row.id}`} />}
      {kind === "tenants" && <DataTable {...given} rows={tables?.tenants} columns={tenantColumns()} id={(row) => row.tenant} />}
      {kind === "prefixes" && <DataTable {...given} rows={tables?.prefixes} columns={prefixColumns()} id={(row) => row.label} />}
    </section>
  );
}

type Sums = Pick<TenantRow, "turns" | "prompt_tokens" | "hit_tokens" | "attainable_tokens" | "at">;

/** The columns that every kind of row has, first what a phone shows without scrolling; the rate is of attainable tokens. */
function sumColumns<R extends Sums>(): Shown<R>[] {
  const { columns } = words.value;
  return [
    { name: "rate", label: columns.rate, numeric: true, value: (row) => rateOf(row), show: (row) => <Rate sums={row} /> },
    { name: "turns", label: columns.turns, numeric: true, value: (row) => row.turns, show: (row) => count(row.turns) },
    { name: "hit", label: columns.hit, numeric: true, value: (row) => row.hit_tokens, show: (row) => short(row.hit_tokens) },
    { name: "attainable", label: columns.attainable, numeric: true, value: (row) => row.attainable_tokens, show: (row) => short(row.attainable_tokens) },
    { name: "prompt", label: columns.prompt, numeric: true, value: (row) => row.prompt_tokens, show: (row) => short(row.prompt_tokens) },
  ];
}

function lastColumn<R extends Sums>(): Shown<R> {
  return { name: "at", label: words.value.columns.last, numeric: true, value: (row) => row.at, show: (row) => (row.at === 0 ? "–" : clock(row.at, Date.now())) };
}

function Rate({ sums }: { sums: Sums }) {
  const rate = rateOf(sums);
  return (
    <span class="rate">
      {percent(rate)}
      {rate !== null && <Meter share={rate} />}
    </span>
  );
}

function sessionColumns(rows: readonly SessionRow[] = []): Shown<SessionRow>[] {
  const { columns, replicas } = words.value;
  const several = rows.some((row) => row.replica !== rows[0]?.replica);
  return [
    {
      name: "session",
      label: columns.session,
      value: (row) => row.id,
      show: (row) => (
        <a class="id" href={sessionHref(row.tenant, row.id)}>
          {row.id}
        </a>
      ),
    },
    ...sumColumns<SessionRow>(),
    { name: "tenant", label: columns.tenant, value: (row) => row.tenant },
    ...(several ? [{ name: "replica", label: replicas.one, value: (row: SessionRow) => row.replica }] : []),
    { name: "device", label: columns.onDevice, numeric: true, value: (row) => row.device_tokens, show: (row) => place(row) },
    { name: "lease", label: columns.lease, numeric: true, value: (row) => longest(row.leases), show: (row) => <LeaseLeft leases={row.leases} /> },
    lastColumn<SessionRow>(),
  ];
}

function tenantColumns(): Shown<TenantRow>[] {
  return [{ name: "tenant", label: words.value.columns.tenant, value: (row) => row.tenant }, ...sumColumns<TenantRow>(), lastColumn<TenantRow>()];
}

function prefixColumns(): Shown<PrefixRow>[] {
  const { columns } = words.value;
  return [
    { name: "label", label: columns.label, value: (row) => row.label },
    ...sumColumns<PrefixRow>(),
    { name: "sessions", label: columns.sessions, numeric: true, value: (row) => row.sessions, show: (row) => count(row.sessions) },
    { name: "device", label: columns.onDevice, numeric: true, value: (row) => row.device_tokens, show: (row) => `${short(row.device_tokens)} / ${short(row.tokens)}` },
    lastColumn<PrefixRow>(),
  ];
}

function place(row: SessionRow): string {
  return row.device_tokens === null || row.tokens === null ? "–" : `${short(row.device_tokens)} / ${short(row.tokens)}`;
}

function longest(leases: readonly LeaseTold[]): number | null {
  return leases.length === 0 ? null : Math.max(...leases.map((lease) => lease.seconds_left));
}

export function LeaseLeft({ leases }: { leases: readonly LeaseTold[] }) {
  if (leases.length === 0) return <span class="quiet">–</span>;
  return (
    <>
      {leases.map((lease) => (
        <span key={lease.strength} class={`tag tag-${lease.strength}`} title={lease.reason}>
          {words.value.strengths[lease.strength] ?? lease.strength} {duration(Math.max(0, lease.seconds_left))}
        </span>
      ))}
    </>
  );
}
