import { count, duration } from "../figures";
import { sessionHref } from "../route";
import { words } from "../words";
import { CopyCurl } from "./CopyCurl";
import { useStore } from "./context";

/** Everything about one block; its number can also be typed. */
export function BlockPanel() {
  const store = useStore();
  const block = store.block.value;
  store.map.version.value; // how many blocks there are is known with the map
  const said = words.value;
  const { block: labels } = said;
  return (
    <div class="card panel">
      <div class="panel-head">
        <h2>{labels.title}</h2>
        <label class="panel-number">
          <span class="unseen">{labels.number}</span>
          <input
            class="field"
            type="number"
            min={1}
            max={Math.max(1, store.map.model.total)}
            value={block?.id ?? ""}
            placeholder={labels.number}
            onChange={(event) => event.currentTarget.reportValidity() && store.point(event.currentTarget.valueAsNumber, true)}
          />
        </label>
      </div>
      {block === null ? (
        <p class="hint">{labels.none}</p>
      ) : (
        <>
          <dl class="pairs pairs-plain">
            <Pair name={labels.state}>
              <i class={`swatch block-${block.code}`} aria-hidden="true" /> {said.codes[block.code as keyof typeof said.codes]}
            </Pair>
            <Pair name={labels.hash}>{block.hash === null ? labels.unnamed : <code class="id">{block.hash}</code>}</Pair>
            <Pair name={labels.refs}>{count(block.refs)}</Pair>
            <Pair name={labels.tokens}>{count(block.tokens)}</Pair>
            <Pair name={labels.depth}>{count(block.depth)}</Pair>
            <Pair name={labels.children}>{count(block.children)}</Pair>
            <Pair name={labels.hits}>{count(block.hits)}</Pair>
            <Pair name={labels.age}>{block.hash === null ? "–" : duration(block.unused_seconds)}</Pair>
            <Pair name={labels.leases}>{said.leasesOn(count(block.hard_leases), count(block.soft_leases))}</Pair>
            <Pair name={labels.sessions}>
              {block.sessions.length === 0 && count(block.heads)}
              <ul>
                {block.sessions.map(({ tenant, id }) => (
                  <li key={`${tenant} ${id}`}>
                    {tenant === "" ? id : <a class="id" href={sessionHref(tenant, id)}>{id}</a>}
                  </li>
                ))}
                {block.heads > block.sessions.length && block.sessions.length > 0 && <li>{said.andMore(count(block.heads - block.sessions.length))}</li>}
              </ul>
            </Pair>
          </dl>
          <CopyCurl method="GET" path={`v1/admin/blocks/${block.id}`} />
        </>
      )}
    </div>
  );
}

function Pair({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
