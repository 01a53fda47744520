import type { ReadonlySignal } from "@preact/signals";

/** Why a view has no fresh figures. */
export function Trouble({ of }: { of: { error: ReadonlySignal<string | null> } }) {
  const error = of.error.value;
  return error === null ? null : (
    <p class="trouble" role="alert">
      {error}
    </p>
  );
}
