import { useEffect, useRef } from "preact/hooks";
import { VIEWS, hrefOf } from "../route";
import { words } from "../words";
import { useStore } from "./context";

/** The views that are built; a session's own view belongs to where it was opened from. */
export function Tabs() {
  const { view } = useStore().route.value;
  const open = view === "session" ? "reuse" : view;
  const tabs = useRef<HTMLElement>(null);
  useEffect(() => tabs.current?.querySelector("[aria-current]")?.scrollIntoView({ inline: "nearest", block: "nearest" }), [open]); // on a phone it may stand beside what is seen
  return (
    <nav ref={tabs} class="tabs" aria-label={words.value.navigation}>
      {VIEWS.map((name) => (
        <a key={name} class="tab" href={hrefOf(name)} aria-current={name === open ? "page" : undefined}>
          {words.value.views[name]}
        </a>
      ))}
      <a class="tab tab-chat" href="./">
        {words.value.chat}
      </a>
    </nav>
  );
}
