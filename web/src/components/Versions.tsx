import { useEffect, useState } from "preact/hooks";
import { versionsAt } from "../families";
import { count, tokens } from "../format";
import { routeOf } from "../route";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

/** `< 2/3 >` under a message that was said, or answered, more than once; and how much of the prompt the versions share. */
export function Versions({ index }: { index: number }) {
  const chat = useChat();
  const { store } = chat;
  const id = store.currentId.value;
  const versions = id === null ? [] : versionsAt(store.family.value, id, index);
  const place = id === null ? -1 : versions.indexOf(id);
  const [before, after] = [versions[place - 1], versions[place + 1]];
  useEffect(() => {
    for (const one of [before, after]) if (one !== undefined) void chat.opening.preload(one);
  }, [chat, before, after]);
  if (id === null || versions.length === 0) return null;
  return (
    <span class="versions" role="group" aria-label={words.versions}>
      <Step to={before} label={words.earlierVersion} name="back" />
      <span class="versions-place">{words.version(count(place + 1), count(versions.length))}</span>
      <Step to={after} label={words.laterVersion} name="chevron" />
      <Shared own={id} other={before ?? after ?? id} />
    </span>
  );
}

function Step({ to, label, name }: { to: string | undefined; label: string; name: "back" | "chevron" }) {
  return (
    <button
      type="button"
      class="icon-button"
      aria-label={label}
      title={label}
      disabled={to === undefined}
      onClick={() => to !== undefined && (location.hash = routeOf(to))}
    >
      <Icon name={name} />
    </button>
  );
}

/** What the last prompts of two branches have in common, as the server compares them. */
function Shared({ own, other }: { own: string; other: string }) {
  const chat = useChat();
  const running = chat.store.busy.value;
  const [shared, setShared] = useState<number | null>(null);
  useEffect(() => {
    if (running) return;
    let current = true;
    chat.shared(other, own).then((found) => current && setShared(found), () => undefined);
    return () => void (current = false);
  }, [chat, own, other, running]);
  return shared === null ? null : <span class="versions-shared">{words.shares(tokens(shared))}</span>;
}
