import { Icon } from "../../components/Icon";
import { words as chatWords } from "../../words";
import { words } from "../words";
import { useStore } from "./context";

/** What is wrong with the server or its engine, and what the last act came to. */
export function Notices() {
  const store = useStore();
  const snapshot = store.snapshot.value;
  const said = snapshot === null ? null : wrong(snapshot.status, snapshot.engine_state);
  const notice = store.notice.value;
  return (
    <div role="status" class="notices">
      {said !== null && <p class="banner">{words.value[said]}</p>}
      {notice !== null && (
        <p class={notice.bad ? "banner banner-error" : "banner"}>
          <span>{notice.text}</span>
          <button type="button" class="icon-button" aria-label={chatWords.dismiss} onClick={() => (store.notice.value = null)}>
            <Icon name="close" />
          </button>
        </p>
      )}
    </div>
  );
}

function wrong(status: string, engine: string): "draining" | "restarting" | "stopped" | "busy" | null {
  if (status === "draining") return "draining";
  return engine === "restarting" || engine === "stopped" || engine === "busy" ? engine : null;
}
