/** The keys that work wherever the focus is; a field or dialog that uses one itself keeps it. */
import { useEffect } from "preact/hooks";
import type { Chat } from "../chat";
import { useChat } from "./context";
import { isNarrow } from "./narrow";

export function useKeys(): void {
  const chat = useChat();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return;
      const act = actionOf(event, chat);
      if (act === null) return;
      event.preventDefault();
      act();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [chat]);
}

function actionOf(event: KeyboardEvent, chat: Chat): (() => void) | null {
  const { store } = chat;
  const key = event.key.toLowerCase();
  if (store.dialog.peek() !== null) return null;
  if (key === "escape") return store.live.peek() === null ? null : () => chat.stop();
  if (event.ctrlKey || event.metaKey) {
    if (event.altKey) return null;
    if (key === "k" && !event.shiftKey) return () => lookFor(chat);
    if (key === "b" && !event.shiftKey) return () => toggleList(chat);
    if (key === "o" && event.shiftKey) return () => chat.opening.go(null);
    return null;
  }
  return key === "?" && !isField(event.target) ? () => (store.dialog.value = "help") : null;
}

export function toggleList({ store }: Chat): void {
  if (isNarrow()) store.drawer.value = !store.drawer.peek();
  else store.folded.value = !store.folded.peek();
}

function lookFor({ store }: Chat): void {
  if (isNarrow()) store.drawer.value = true;
  store.folded.value = false;
  requestAnimationFrame(() => document.getElementById("search")?.focus());
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}
