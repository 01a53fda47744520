import { useEffect } from "preact/hooks";
import { words } from "../words";
import { Announcer } from "./Announcer";
import { Composer } from "./Composer";
import { ConnectionBanner } from "./ConnectionBanner";
import { Header } from "./Header";
import { Help } from "./Help";
import { Middle } from "./Middle";
import { Notice } from "./Notice";
import { Settings } from "./Settings";
import { Sidebar } from "./Sidebar";
import { Undo } from "./Undo";
import { useChat } from "./context";
import { useKeys } from "./keys";

/** The frame. It reads nothing that changes while an answer is written, so that the list is not drawn with every token. */
export function App() {
  const { store } = useChat();
  useKeys();
  const heading = store.currentId.value === null ? words.product : `${store.title.value} · ${words.product}`;
  useEffect(() => void (document.title = heading), [heading]);
  return (
    <div class={store.folded.value ? "app is-folded" : "app"}>
      <Sidebar />
      <main class="main">
        <Header />
        <ConnectionBanner />
        <Notice />
        <Middle />
        <Composer />
      </main>
      <Announcer />
      <Undo />
      {store.dialog.value === "settings" && <Settings />}
      {store.dialog.value === "help" && <Help />}
    </div>
  );
}
