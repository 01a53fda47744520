import type { Call } from "../turns";
import { words } from "../words";
import { Icon } from "./Icon";

/** A tool that the answer called, and what came of it. */
export function CallCard({ call }: { call: Call }) {
  return (
    <details class="fold call">
      <summary>
        <Icon name="tool" />
        <span>{words.called(call.name)}</span>
        <Icon name="chevron" />
      </summary>
      <div class="fold-body">
        <h3>{words.callArguments}</h3>
        <pre tabIndex={0}>{pretty(call.arguments)}</pre>
        <h3>{words.callOutput}</h3>
        {call.output === null ? <p>{words.callWaits}</p> : <pre tabIndex={0}>{pretty(call.output)}</pre>}
      </div>
    </details>
  );
}

/** JSON over several lines; anything else, such as half of it, as it is. */
function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
