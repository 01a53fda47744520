import { useEffect } from "preact/hooks";
import { words } from "../words";
import { Announcer } from "./Announcer";
import { Composer } from "./Composer";
import { ConnectionBanner } from "./ConnectionBanner";
import { Header } from "./Header";
import { Help } from "./Help";
import { LoginView } from "./LoginView";
import { Middle } from "./Middle";
import { Notice } from "./Notice";
import { Settings } from "./Settings";
import { Sidebar } from "./Sidebar";
import { Undo } from "./Undo";
import { useChat } from "./context";
import { useKeys } from "./keys";

export function App() {
  const { store, login } = useChat();
  const heading = store.currentId.value === null || login.wanted.value ? words.product : `${store.title.value} · ${words.product}`;
  useEffect(() => void (document.title = heading), [heading]);
  return login.wanted.value ? <LoginView login={login} otherwise={<a href="./admin">{words.login.toAdmin}</a>} /> : <Frame />;
}

/** The frame. It reads nothing that changes while an answer is written, so that the list is not drawn with every token. */
function Frame() {
  const { store } = useChat();
  useKeys();
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
