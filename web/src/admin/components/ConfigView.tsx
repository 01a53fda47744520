import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { DataTable, type Shown } from "./DataTable";
import { Trouble } from "./Trouble";
import { useStore } from "./context";
import type { Setting } from "../wire";

const EVERY = 60_000;

/** Every setting with where it came from; and the one act that concerns the whole server. */
export function ConfigView() {
  const store = useStore();
  useEffect(() => store.settings.follow("v1/admin/settings", EVERY), [store]);
  const said = words.value;
  return (
    <section class="section">
      <Trouble of={store.settings} />
      <DataTable
        name="settings"
        caption={said.views.config}
        rows={store.settings.value.value?.data}
        columns={columns()}
        id={(row) => row.name}
        extra={<CopyCurl method="GET" path="v1/admin/settings" />}
      />
      {store.login.mayChange.value && <Drain />}
    </section>
  );
}

function columns(): Shown<Setting>[] {
  const { columns } = words.value;
  return [
    { name: "section", label: columns.section, value: (row) => row.section },
    { name: "name", label: columns.setting, value: (row) => row.name, show: (row) => <code title={row.help}>{row.name}</code> },
    { name: "value", label: columns.value, value: (row) => row.value, show: (row) => <span class="setting-value">{row.value === "" ? "–" : row.value}</span> },
    {
      name: "source",
      label: columns.source,
      value: (row) => row.source,
      show: (row) => <span class={row.source === "default" ? "quiet" : "tag tag-hard"}>{words.value.settingSources[row.source] ?? row.source}</span>,
    },
  ];
}

function Drain() {
  const store = useStore();
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = useSignal(false);
  const said = words.value;
  const draining = store.snapshot.value?.status === "draining";
  return (
    <div class="card budget">
      <h2>{said.drain}</h2>
      <p class="figure-note">{said.drainText}</p>
      <p>
        <button type="button" class="button button-danger" disabled={draining} onClick={() => dialog.current?.showModal()}>
          {draining ? said.drainingNow : said.drain}
        </button>{" "}
        <CopyCurl method="POST" path="v1/admin/drain" />
      </p>
      <dialog ref={dialog} class="confirm" aria-labelledby="drain-question">
        <h2 id="drain-question">{said.drainQuestion}</h2>
        <p>{said.drainText}</p>
        <div class="confirm-answers">
          <button type="button" class="button" onClick={() => dialog.current?.close()}>
            {said.no}
          </button>
          <button
            type="button"
            class="button button-danger"
            disabled={asked.value}
            onClick={async () => {
              asked.value = true;
              await store.act(said.drainingNow, () => store.api.json("POST", "v1/admin/drain"));
              asked.value = false;
              dialog.current?.close();
            }}
          >
            {said.drain}
          </button>
        </div>
      </dialog>
    </div>
  );
}
