import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { clock, count, short } from "../figures";
import type { LimitedKey, Tenant } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { DataTable, type Shown } from "./DataTable";
import { type Limited, LimitsDialog } from "./LimitsDialog";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const EVERY = 1_000;
const PATH = "v1/admin/tenants";
const KINDS = ["tenants", "keys"] as const;

/** What each tenant may ask for and has of it, and each key that has limits of its own; an admin pauses and limits them. */
export function TenantsView() {
  const store = useStore();
  const edited = useSignal<Limited | null>(null);
  const { query } = store.route.value;
  const kind = query.get("of") === "keys" ? "keys" : "tenants";
  const find = (query.get("find") ?? "").trim();
  const many = useSignal(false);
  const path = many.value && find !== "" ? `${PATH}?${new URLSearchParams({ search: find })}` : PATH; // what is not here, the server finds by name
  useEffect(() => store.tenants.follow(path, EVERY), [store, path]);
  const told = store.tenants.value.value;
  const said = words.value;
  useEffect(() => {
    if (path === PATH && told !== null) many.value = told[`${kind}_in_all`] > (kind === "keys" ? told.keys : told.data).length;
  }, [path, told, kind]);
  const edit = store.login.mayChange.value ? (one: Limited) => (edited.value = one) : null;
  const choice = (
    <>
      <div class="choice" role="group" aria-label={said.tables}>
        {KINDS.map((name) => (
          <button key={name} type="button" aria-pressed={name === kind} onClick={() => store.ask({ of: name, sort: "", down: "" })}>
            {said.tenancy.kinds[name]}
          </button>
        ))}
      </div>
      <CopyCurl method="GET" path={path} />
    </>
  );
  const given = { name: kind, caption: said.tenancy.kinds[kind], extra: choice };
  return (
    <section class="section">
      <Trouble of={store.tenants} />
      {kind === "tenants" && <DataTable {...given} rows={told?.data} all={told?.tenants_in_all} columns={tenantColumns(edit)} id={(row) => row.id} />}
      {kind === "keys" && <DataTable {...given} rows={told?.keys} all={told?.keys_in_all} columns={keyColumns(edit)} id={(row) => row.id} />}
      {edited.value !== null && <LimitsDialog key={edited.value.id} of={edited.value} onClose={() => (edited.value = null)} />}
    </section>
  );
}

type Edit = ((one: Limited) => void) | null;
type Allowance = Pick<Tenant, "requests_per_minute" | "requests_left" | "tokens_per_minute" | "tokens_left">;

function tenantColumns(edit: Edit): Shown<Tenant>[] {
  const { columns, tenancy } = words.value;
  const plain = (name: "keys" | "running" | "weight"): Shown<Tenant> => ({ name, label: columns[name], numeric: true, value: (row) => row[name], show: (row) => count(row[name]) });
  return [
    { name: "tenant", label: columns.tenant, value: (row) => row.id },
    { name: "state", label: columns.state, value: (row) => (row.paused_at === null ? tenancy.open : tenancy.paused), show: (row) => <State row={row} /> },
    {
      name: "conversations",
      label: columns.sessions,
      numeric: true,
      value: (row) => row.conversations,
      show: (row) => (row.max_conversations === null ? count(row.conversations) : tenancy.of(count(row.conversations), count(row.max_conversations))),
    },
    plain("keys"),
    plain("running"),
    plain("weight"),
    ...rateColumns<Tenant>(),
    ...(edit === null ? [] : [{ name: "act", label: columns.act, value: () => null, show: (row: Tenant) => <Acts row={row} edit={edit} /> }]),
  ];
}

function keyColumns(edit: Edit): Shown<LimitedKey>[] {
  const { columns, tenancy } = words.value;
  const limits = (row: LimitedKey) => (
    <button type="button" class="text-button" aria-label={tenancy.limitsOf(row.id)} onClick={() => edit?.({ kind: "key", id: row.id, own: row, usual: null })}>
      {tenancy.limits}
    </button>
  );
  return [
    { name: "key", label: columns.key, value: (row) => row.id, show: (row) => <code class="id">{row.id}</code> },
    ...rateColumns<LimitedKey>(),
    ...(edit === null ? [] : [{ name: "act", label: columns.act, value: () => null, show: limits }]),
  ];
}

function rateColumns<R extends Allowance>(): Shown<R>[] {
  const { columns, tenancy } = words.value;
  return (["requests", "tokens"] as const).map((name) => ({
    name,
    label: columns[name],
    numeric: true,
    value: (row) => row[`${name}_per_minute`],
    show: (row) => {
      const [most, left] = [row[`${name}_per_minute`], row[`${name}_left`]];
      return most === null ? <span class="quiet">{tenancy.any}</span> : tenancy.left(short(left ?? most), short(most));
    },
  }));
}

function State({ row }: { row: Tenant }) {
  const said = words.value.tenancy;
  if (row.paused_at === null) return <>{said.open}</>;
  return (
    <span class="tag tag-hard" title={said.pausedSince(clock(row.paused_at, Date.now()))}>
      {said.paused}
    </span>
  );
}

function Acts({ row, edit }: { row: Tenant; edit: (one: Limited) => void }) {
  const store = useStore();
  const said = words.value.tenancy;
  const act = row.paused_at === null ? "pause" : "resume";
  const change = async () => {
    await store.act(act === "pause" ? said.isPaused(row.id) : said.isResumed(row.id), () => store.api.json("POST", `${PATH}/${encodeURIComponent(row.id)}/${act}`));
    await store.tenants.again();
  };
  return (
    <span class="acts">
      <button type="button" class="text-button" aria-label={said[`${act}One`](row.id)} onClick={() => void change()}>
        {said[act]}
      </button>
      <button type="button" class="text-button" aria-label={said.limitsOf(row.id)} onClick={() => edit({ kind: "tenant", id: row.id, own: row.own, usual: row })}>
        {said.limits}
      </button>
    </span>
  );
}
