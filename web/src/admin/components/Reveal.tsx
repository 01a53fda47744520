import { useSignal } from "@preact/signals";
import type { AnyItem } from "../../wire";
import { words } from "../words";
import { useStore } from "./context";

/** What was said in a turn: only when it is asked for, which the server writes down first. */
export function Reveal({ turn }: { turn: string }) {
  const store = useStore();
  const said = useSignal<readonly AnyItem[] | null>(null);
  const { tenant, session } = store.route.value;
  if (!store.login.mayChange.value) return null;
  const path = `v1/admin/sessions/${encodeURIComponent(tenant)}/${encodeURIComponent(session)}/turns/${encodeURIComponent(turn)}/reveal`;
  const reveal = () =>
    store.act(words.value.revealed(turn), async () => {
      said.value = (await store.api.json<{ data: AnyItem[] }>("POST", path)).data;
    });
  return (
    <>
      <button type="button" class="text-button reveal" title={store.login.leavable.value ? words.value.revealNote : undefined} onClick={said.value === null ? reveal : () => (said.value = null)}>
        {said.value === null ? words.value.reveal : words.value.hide}
      </button>
      {said.value !== null && (
        <dl class="said">
          {said.value.map((item, i) => (
            <div key={i}>
              <dt>{item.type === "message" ? item.role : item.type}</dt>
              <dd dir="auto">{textOf(item)}</dd>
            </div>
          ))}
        </dl>
      )}
    </>
  );
}

function textOf(item: AnyItem): string {
  if (item.type === "function_call") return `${item.name}(${item.arguments})`;
  if (item.type === "function_call_output") return item.output;
  return item.content.map((part) => part.text).join("\n");
}
