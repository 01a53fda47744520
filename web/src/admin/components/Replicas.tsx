import { useEffect } from "preact/hooks";
import { count, percent, short } from "../figures";
import type { ReplicaRow } from "../wire";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const PATH = "v1/admin/replicas";
const EVERY = 1_000;
const SELDOM = 30_000;

/** The engines behind the server, where there are several: what each does and holds, and taking one out. */
export function Replicas() {
  const store = useStore();
  const told = store.replicas.value.value?.data ?? [];
  const several = told.length > 1;
  useEffect(() => store.replicas.follow(PATH, several ? EVERY : SELDOM), [store, several]);
  if (!several) return null;
  const { columns, replicas } = words.value;
  const mayChange = store.login.mayChange.value;
  const heads = [columns.state, replicas.answers, replicas.queued, replicas.memory, replicas.hit, replicas.restarts];
  return (
    <section class="section" aria-labelledby="replicas">
      <div class="section-head">
        <h2 id="replicas">{replicas.title}</h2>
        <CopyCurl method="GET" path={PATH} />
      </div>
      <Trouble of={store.replicas} />
      <div class="card table-box" tabIndex={0} role="group" aria-labelledby="replicas">
        <table class="table">
          <thead>
            <tr>
              <th scope="col">{replicas.one}</th>
              {heads.map((head, i) => (
                <th key={head} scope="col" class={i > 0 ? "number" : undefined}>
                  {head}
                </th>
              ))}
              {mayChange && <th scope="col">{columns.act}</th>}
            </tr>
          </thead>
          <tbody>
            {told.map((one) => (
              <Row key={one.id} one={one} mayChange={mayChange} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Row({ one, mayChange }: { one: ReplicaRow; mayChange: boolean }) {
  const { replicas } = words.value;
  const { engine } = one;
  return (
    <tr>
      <th scope="row">{one.id}</th>
      <td>{one.state === "ok" ? replicas.states.ok : <span class="tag tag-hard">{replicas.states[one.state]}</span>}</td>
      <td class="number">{one.answers === null ? "–" : count(one.answers)}</td>
      <td class="number">{one.queued_tokens === null ? "–" : short(one.queued_tokens)}</td>
      <td class="number">{engine === null ? "–" : percent(engine.blocks.utilisation)}</td>
      <td class="number">{engine === null || engine.queried_tokens === 0 ? "–" : percent(engine.hit_tokens / engine.queried_tokens)}</td>
      <td class="number">{count(one.restarts)}</td>
      {mayChange && (
        <td>
          <Act one={one} />
        </td>
      )}
    </tr>
  );
}

function Act({ one }: { one: ReplicaRow }) {
  const store = useStore();
  const { replicas, tenancy } = words.value;
  const drains = one.state !== "draining";
  const change = async () => {
    const path = `${PATH}/${encodeURIComponent(one.id)}/${drains ? "drain" : "resume"}`;
    await store.act(drains ? replicas.isDrained(one.id) : tenancy.isResumed(one.id), () => store.api.json("POST", path));
    await store.replicas.again();
  };
  return (
    <button type="button" class="text-button" aria-label={drains ? replicas.drainOne(one.id) : tenancy.resumeOne(one.id)} onClick={() => void change()}>
      {drains ? replicas.drain : tenancy.resume}
    </button>
  );
}
