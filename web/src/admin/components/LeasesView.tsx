import { useEffect } from "preact/hooks";
import { count, percent, short } from "../figures";
import { sessionHref } from "../route";
import type { LeaseRow, Leases } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { DataTable, type Shown } from "./DataTable";
import { Legend, StackedBar } from "./Meter";
import { LeaseLeft } from "./Reuse";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const EVERY = 1_000;
const PIN_SECONDS = 3_600;

/** What leases keep, for how long, and of what budget. */
export function LeasesView() {
  const store = useStore();
  useEffect(() => store.leases.follow("v1/admin/leases", EVERY), [store]);
  const leases = store.leases.value.value;
  const said = words.value;
  return (
    <section class="section">
      <Trouble of={store.leases} />
      {leases !== null && <Budget leases={leases} />}
      {store.login.mayChange.value && <PinForm />}
      <DataTable
        name="leases"
        caption={said.views.leases}
        rows={leases?.data}
        columns={columns(store.login.mayChange.value)}
        id={(row) => `${row.tenant} ${row.id}`}
        extra={<CopyCurl method="GET" path="v1/admin/leases" />}
      />
    </section>
  );
}

function Budget({ leases }: { leases: Leases }) {
  const said = words.value;
  const parts = [{ name: "hard", label: said.budgetUsed, value: leases.leased_blocks }];
  const conversations = (number: number) => said.conversations(count(number), number === 1);
  const soft = said.softBlocks(count(leases.softly_leased_blocks), conversations(leases.soft));
  return (
    <div class="card budget">
      <h2>{said.budget}</h2>
      <p class="figure-note">
        {said.budgetText(count(leases.leased_blocks), count(leases.budget), percent(leases.leased_blocks / Math.max(1, leases.budget)), conversations(leases.hard))}
      </p>
      <StackedBar parts={parts} whole={leases.budget} />
      <Legend parts={parts} show={count} />
      <p class="hint">{soft}</p>
    </div>
  );
}

function PinForm() {
  const store = useStore();
  const said = words.value;
  const pin = async (form: HTMLFormElement) => {
    const given = new FormData(form);
    const [tenant, id] = [String(given.get("tenant")), String(given.get("session")).trim()];
    const ttl = 60 * Number(given.get("minutes"));
    const done = await store.act(said.pinned(id), () => store.api.json("PUT", pinPath(tenant, id), { ttl }));
    if (done) form.reset();
    await store.leases.again();
  };
  return (
    <form
      class="tools pin-form"
      aria-label={said.pin}
      onSubmit={(event) => {
        event.preventDefault();
        void pin(event.currentTarget);
      }}
    >
      <label>
        {said.columns.tenant}
        <input class="field" name="tenant" required defaultValue="default" size={10} />
      </label>
      <label class="pin-session">
        {said.columns.session}
        <input class="field" name="session" required placeholder="conv_…" />
      </label>
      <label>
        {said.minutes}
        <input class="field" name="minutes" type="number" required min={1} max={1440} defaultValue={String(PIN_SECONDS / 60)} />
      </label>
      <button type="submit" class="button">
        {said.pin}
      </button>
    </form>
  );
}

function columns(mayChange: boolean): Shown<LeaseRow>[] {
  const { columns, prefix } = words.value;
  return [
    {
      name: "session",
      label: columns.session,
      value: (row) => row.id,
      show: (row) =>
        row.tenant === "" ? (
          `${prefix} ${row.id}`
        ) : (
          <a class="id" href={sessionHref(row.tenant, row.id)}>
            {row.id}
          </a>
        ),
    },
    { name: "tenant", label: columns.tenant, value: (row) => row.tenant || null },
    { name: "lease", label: columns.lease, value: (row) => Math.max(...row.leases.map((lease) => lease.seconds_left)), show: (row) => <LeaseLeft leases={row.leases} /> },
    { name: "kept", label: columns.kept, numeric: true, value: (row) => Math.max(...row.leases.map((lease) => lease.tokens)), show: (row) => short(Math.max(...row.leases.map((lease) => lease.tokens))) },
    { name: "device", label: columns.onDevice, numeric: true, value: (row) => row.device_tokens, show: (row) => `${short(row.device_tokens)} / ${short(row.tokens)}` },
    ...(mayChange ? [{ name: "act", label: columns.act, value: () => null, show: (row: LeaseRow) => <Acts row={row} /> }] : []),
  ];
}

function Acts({ row }: { row: LeaseRow }) {
  const store = useStore();
  const said = words.value;
  if (row.tenant === "") return <span class="quiet">–</span>;
  const change = async (text: string, what: () => Promise<unknown>) => {
    await store.act(text, what);
    await store.leases.again();
  };
  const path = pinPath(row.tenant, row.id);
  return (
    <span class="acts">
      <button type="button" class="text-button" onClick={() => change(said.pinned(row.id), () => store.api.json("PUT", path, { ttl: PIN_SECONDS }))}>
        {said.pinHour}
      </button>
      <button type="button" class="text-button" onClick={() => change(said.unpinned(row.id), () => store.api.json("DELETE", path))}>
        {said.unpin}
      </button>
    </span>
  );
}

function pinPath(tenant: string, id: string): string {
  return `v1/admin/sessions/${encodeURIComponent(tenant)}/${encodeURIComponent(id)}/pin`;
}
