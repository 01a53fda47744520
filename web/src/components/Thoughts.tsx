import { words } from "../words";
import { Icon } from "./Icon";

/** What the model thought first, folded away. */
export function Thoughts({ text, live }: { text: string; live: boolean }) {
  return (
    <details class="fold thoughts">
      <summary>
        <Icon name="chevron" />
        <span>{live ? words.thinkingNow : words.thoughts}</span>
      </summary>
      <div class="fold-body" dir="auto">
        {text}
      </div>
    </details>
  );
}
