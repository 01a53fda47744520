import { useEffect } from "preact/hooks";
import { LoginView } from "../../components/LoginView";
import { words as chatWords } from "../../words";
import { language, words } from "../words";
import { Bar } from "./Bar";
import { BlocksView } from "./BlocksView";
import { ConfigView } from "./ConfigView";
import { LeasesView } from "./LeasesView";
import { Notices } from "./Notices";
import { Overview } from "./Overview";
import { RequestsView } from "./RequestsView";
import { Reuse } from "./Reuse";
import { SessionView } from "./SessionView";
import { Tabs } from "./Tabs";
import { TenantsView } from "./TenantsView";
import { useStore } from "./context";

export function App() {
  const store = useStore();
  const { view, session } = store.route.value;
  const heading = view === "session" ? session : view === "nowhere" ? words.value.noPage : words.value.views[view];
  useEffect(() => {
    document.title = `${heading} · ${words.value.title}`;
    document.documentElement.lang = language.value;
  });
  if (store.login.wanted.value) return <LoginView login={store.login} otherwise={<a href="./">{chatWords.login.toChat}</a>} />;
  return (
    <div class="admin">
      <Bar />
      <Tabs />
      <main class="admin-main">
        <h1 class="unseen">{heading}</h1>
        <Notices />
        <Shown />
      </main>
    </div>
  );
}

function Shown() {
  const store = useStore();
  if (store.snapshot.value === null) return <p class="admin-wait place-late">{words.value.waitingForFirst}</p>;
  switch (store.route.value.view) {
    case "nowhere":
      return <p class="card table-empty">{words.value.noPage}</p>;
    case "overview":
      return <Overview />;
    case "reuse":
      return <Reuse />;
    case "blocks":
      return <BlocksView />;
    case "leases":
      return <LeasesView />;
    case "requests":
      return <RequestsView />;
    case "session":
      return <SessionView />;
    case "tenants":
      return <TenantsView />;
    case "config":
      return <ConfigView />;
  }
}
