import { useEffect, useRef } from "preact/hooks";
import { count } from "../figures";
import type { TenantLimits } from "../wire";
import { words } from "../words";
import { useStore } from "./context";

const FIELDS = { tenant: ["requests_per_minute", "tokens_per_minute", "max_conversations", "weight"], key: ["requests_per_minute", "tokens_per_minute"] } as const;
const LEAST = { requests_per_minute: 1, tokens_per_minute: 1, max_conversations: 0, weight: 1 };
const MOST_WEIGHT = 100;

/** A tenant or a key, and what differs for it; `usual` is what is in force, for what does not. */
export interface Limited {
  kind: keyof typeof FIELDS;
  id: string;
  own: Partial<TenantLimits>;
  usual: TenantLimits | null;
}

/** What is left empty differs from nothing: the server is told the whole of it. */
export function LimitsDialog({ of, onClose }: { of: Limited; onClose: () => void }) {
  const store = useStore();
  const dialog = useRef<HTMLDialogElement>(null);
  const said = words.value.tenancy;
  useEffect(() => dialog.current?.showModal(), []);
  const set = async (form: HTMLFormElement) => {
    const given = new FormData(form);
    const wanted = Object.fromEntries(FIELDS[of.kind].map((name) => [name, given.get(name) === "" ? null : Number(given.get(name))]));
    const path = `v1/admin/${of.kind}s/${encodeURIComponent(of.id)}/limits`;
    dialog.current?.close(); // the focus goes back to where it was; `onClose` follows
    await store.act(said.areLimited(of.id), () => store.api.json("PUT", path, wanted));
    await store.tenants.again();
  };
  const placeholder = (name: keyof TenantLimits) => {
    if (of.usual === null) return said.any;
    if (typeof of.own[name] === "number") return "";
    const value = of.usual[name];
    return said.usual(value === null ? said.any : count(value));
  };
  return (
    <dialog ref={dialog} class="confirm" aria-labelledby="limits-of" onClose={onClose}>
      <form
        class="limits"
        onSubmit={(event) => {
          event.preventDefault();
          void set(event.currentTarget);
        }}
      >
        <h2 id="limits-of">{said.limitsOf(of.id)}</h2>
        <p>{of.kind === "tenant" ? said.emptyTenant : said.emptyKey}</p>
        {FIELDS[of.kind].map((name) => (
          <label key={name}>
            {said.fields[name]}
            <input
              class="field"
              name={name}
              type="number"
              min={LEAST[name]}
              max={name === "weight" ? MOST_WEIGHT : Number.MAX_SAFE_INTEGER}
              defaultValue={String(of.own[name] ?? "")}
              placeholder={placeholder(name)}
            />
          </label>
        ))}
        <div class="confirm-answers">
          <button type="button" class="button" onClick={() => dialog.current?.close()}>
            {words.value.cancel}
          </button>
          <button type="submit" class="button button-main">
            {said.save}
          </button>
        </div>
      </form>
    </dialog>
  );
}
