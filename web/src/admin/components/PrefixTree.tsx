import type { Run } from "../blocks";
import { count } from "../figures";
import { words } from "../words";
import { useStore } from "./context";

const DEEPEST = 8;
const NOTHING: ReadonlySet<number> = new Set();

/** What cached prefixes have in common: a line is a run of blocks that goes on in one way, its branches stand below it. */
export function PrefixTree({ runs, light }: { runs: readonly Run[]; light: (ids: ReadonlySet<number>) => void }) {
  const store = useStore();
  const said = words.value;
  return (
    <div class="card panel tree-panel">
      <h2>{said.tree}</h2>
      {runs.length === 0 && <p class="hint">{said.treeEmpty}</p>}
      <ul class="tree" onPointerLeave={() => light(NOTHING)}>
        {runs.map((run) => (
          <li key={run.blocks[0]} class={`tree-${Math.min(DEEPEST, run.depth)}`}>
            <button
              type="button"
              class="tree-run"
              onPointerEnter={() => light(new Set(run.blocks))}
              onFocus={() => light(new Set(run.blocks))}
              onBlur={() => light(NOTHING)}
              onClick={() => store.point(run.blocks.at(-1) ?? 0, true)}
            >
              <span>{said.run(count(run.blocks.length), run.blocks.length === 1)}</span>
              <span class="quiet">
                {run.size > run.blocks.length && said.runWith(count(run.size - run.blocks.length))}
                {run.more > 0 && ` ${said.andMore(count(run.more))}`}
              </span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
