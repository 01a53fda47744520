import { useRef } from "preact/hooks";
import { words } from "../words";
import { Icon } from "./Icon";
import { useChat } from "./context";

export function ImportButton() {
  const chat = useChat();
  const field = useRef<HTMLInputElement>(null);
  const read = async (file: File | undefined) => {
    if (file !== undefined) await chat.importChat(await file.text());
    if (field.current !== null) field.current.value = ""; // the same file can be chosen again
  };
  return (
    <>
      <input
        ref={field}
        type="file"
        class="unseen"
        tabIndex={-1}
        accept=".json,.md,application/json,text/markdown"
        aria-label={words.importChat}
        onChange={(event) => void read(event.currentTarget.files?.[0])}
      />
      <button type="button" class="text-button" onClick={() => field.current?.click()}>
        <Icon name="upload" />
        {words.importChat}
      </button>
    </>
  );
}
