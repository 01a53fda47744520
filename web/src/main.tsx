import { render } from "preact";
import "./styles/tokens.css";
import "./styles/page.css";
import "./styles/login.css";
import "./styles/sidebar.css";
import "./styles/thread.css";
import "./styles/receipt.css";
import "./styles/actions.css";
import "./styles/markdown.css";
import "./styles/composer.css";
import "./styles/dialog.css";
import { Api } from "./api";
import { Chat } from "./chat";
import { App } from "./components/App";
import { ChatContext } from "./components/context";
import { KeptWishes } from "./wishes";
import { words } from "./words";
import { Drafts } from "./drafts";
import { Unsent } from "./unsent";
import { Lines } from "./lines";
import { Login } from "./login";
import { forgetWork, preference, themeOf, wear } from "./preferences";
import { parseRoute, routeOf } from "./route";

const WATCH_EVERY = 5_000;

const root = document.baseURI;
const socketUrl = new URL("v1/responses", root);
socketUrl.protocol = socketUrl.protocol.replace("http", "ws");

wear(themeOf(preference("theme")));
document.documentElement.lang = words.locale;

// What one page changes, this browser's others read again.
const others = new BroadcastChannel(`chatpager:${new URL(".", root).href}`);

const leaving = new AbortController();

/** Somebody else comes next: nothing that was written may be kept on leaving either. */
function forget(): void {
  leaving.abort();
  forgetWork();
}

const api = new Api(root);
const chat = new Chat({
  api,
  login: new Login(api, ["user", "admin"], forget),
  lines: new Lines({ url: socketUrl.href }),
  drafts: new Drafts(() => localStorage),
  unsent: new Unsent(() => localStorage),
  wishes: new KeptWishes(() => localStorage),
  tellOthers: (id) => others.postMessage(id),
  navigate: (id) => {
    if (parseRoute(location.hash) !== id) location.hash = routeOf(id);
  },
});

window.addEventListener("hashchange", () => chat.opening.open(parseRoute(location.hash)));
window.addEventListener("online", () => chat.wake());
window.addEventListener("offline", () => (chat.store.offline.value = true));
const { signal } = leaving;
window.addEventListener("beforeunload", (event) => chat.keep() || event.preventDefault(), { signal }); // the browser asks
window.addEventListener("pagehide", () => chat.leave(), { signal });
// a page that nobody sees may be ended without a word
document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && chat.keep(), { signal });
others.onmessage = ({ data }) => chat.heard(String(data));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") chat.wake();
});
setInterval(() => {
  chat.watch();
  if (document.visibilityState === "visible") void chat.look();
}, WATCH_EVERY);

const place = document.getElementById("app");
if (place === null) throw new Error("index.html has no element with the id app");
void chat.login.ask().then(() => chat.start(parseRoute(location.hash)));
render(
  <ChatContext.Provider value={chat}>
    <App />
  </ChatContext.Provider>,
  place,
);
