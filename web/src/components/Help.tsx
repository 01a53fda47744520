import { words } from "../words";
import { Dialog } from "./Dialog";
import { useChat } from "./context";

const KEYS: readonly [keyof typeof words.helpKeys, readonly string[]][] = [
  ["send", ["Enter"]],
  ["line", ["Shift", "Enter"]],
  ["stop", ["Esc"]],
  ["search", ["Ctrl", "K"]],
  ["newChat", ["Ctrl", "Shift", "O"]],
  ["sidebar", ["Ctrl", "B"]],
  ["help", ["?"]],
];

export function Help() {
  const { dialog } = useChat().store;
  return (
    <Dialog title={words.help} onClose={() => (dialog.value = null)}>
      <dl class="keys">
        {KEYS.map(([name, keys]) => (
          <div key={name}>
            <dt>{words.helpKeys[name]}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
