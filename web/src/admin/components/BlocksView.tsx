import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { CODES, type Code, type Run, prefixTree } from "../blocks";
import { count } from "../figures";
import { words } from "../words";
import { BlockMap } from "./BlockMap";
import { BlockPanel } from "./BlockPanel";
import { PrefixTree } from "./PrefixTree";
import { Trouble } from "./Trouble";
import { useStore } from "./context";

const TREE_EVERY = 3_000;
const MOST_RUNS = 200;

/** The map, what its colours mean, the block that is pointed at, and the tree of prefixes. */
export function BlocksView() {
  const store = useStore();
  const runs = useSignal<Run[]>([]);
  const lit = useSignal<ReadonlySet<number>>(new Set());
  useEffect(() => store.map.follow(), [store]);
  useEffect(() => {
    const again = () => (runs.value = prefixTree(store.map.model, MOST_RUNS));
    const unsubscribe = store.map.first.subscribe((there) => there && again());
    const timer = setInterval(() => store.paused.value || again(), TREE_EVERY);
    return () => {
      clearInterval(timer);
      unsubscribe();
    };
  }, [store]);
  const said = words.value;
  return (
    <section class="section">
      <Trouble of={store.map} />
      <Counts />
      <div class="blocks">
        <div class="blocks-map">
          <h2 class="unseen">{said.blockMap}</h2>
          <BlockMap lit={lit} />
        </div>
        <aside class="blocks-side">
          <BlockPanel />
          <PrefixTree runs={runs.value} light={(ids) => (lit.value = ids)} />
        </aside>
      </div>
    </section>
  );
}

function Counts() {
  const { map } = useStore();
  map.version.value;
  const said = words.value;
  return (
    <ul class="legend legend-blocks" aria-label={said.blockStates}>
      {CODES.map((code: Code, i) => (
        <li key={code}>
          <i class={`swatch block-${code}`} aria-hidden="true" />
          {said.codes[code]} <b>{count(map.model.counts[i] ?? 0)}</b>
        </li>
      ))}
    </ul>
  );
}
