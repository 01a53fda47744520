import { useSignal } from "@preact/signals";
import { copy as copyText } from "../../copying";
import { words } from "../words";
import { useStore } from "./context";

/** The same as a command line. */
export function CopyCurl({ method, path, body }: { method: string; path: string; body?: unknown }) {
  const store = useStore();
  const copied = useSignal(false);
  const copy = async () => {
    const text = store.api.curl(store.login.leavable.peek(), method, path, body);
    if (!(await copyText(text))) { // the browser does not let the page: to be marked by hand
      store.notice.value = { text, bad: false };
      return;
    }
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" class="text-button curl" onClick={copy}>
      {copied.value ? words.value.copied : words.value.copyCurl}
    </button>
  );
}
