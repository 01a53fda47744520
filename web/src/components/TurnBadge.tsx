import { badge, missInWords, promptParts, receiptLines } from "../format";
import type { Receipt } from "../turns";
import type { CacheReceipt } from "../wire";
import { words } from "../words";
import { Icon } from "./Icon";
import { Parts } from "./Parts";

/** One line on how the turn was computed; opened, it is the receipt in words. */
export function TurnBadge({ receipt }: { receipt: Receipt }) {
  const { warm, parts } = badge(receipt);
  const why = receipt.cache === null ? words.receipt : missInWords(receipt.cache).join(" ");
  return (
    <details class="receipt">
      <summary class="badge" title={why}>
        {warm !== null && <span class={warm ? "heat heat-warm" : "heat heat-cold"}>{warm ? words.warm : words.cold}</span>}
        <Parts of={parts} between=" · " />
        <Icon name="chevron" />
      </summary>
      <div class="receipt-body">
        {receipt.cache !== null && <PromptBar cache={receipt.cache} />}
        <dl>
          {receiptLines(receipt).map(({ name, parts }) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>
                <Parts of={parts} between={words.comma} />
              </dd>
            </div>
          ))}
        </dl>
      </div>
    </details>
  );
}

/** The prompt as one bar, cut by where its tokens came from. The rows below say the same in words. */
function PromptBar({ cache }: { cache: CacheReceipt }) {
  let start = 0;
  return (
    <svg class="prompt-bar" viewBox={`0 0 ${Math.max(1, cache.prompt_tokens)} 1`} preserveAspectRatio="none" aria-hidden="true">
      {promptParts(cache).map((part) => {
        const x = start;
        start += part.tokens;
        return <rect key={part.name} class={`part-${part.name}`} x={x} y={0} width={part.tokens} height={1} />;
      })}
    </svg>
  );
}
