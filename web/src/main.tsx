import { render } from "preact";
import "./styles/tokens.css";
import "./styles/page.css";
import "./styles/sidebar.css";
import "./styles/thread.css";
import "./styles/composer.css";
import { Api } from "./api";
import { Chat } from "./chat";
import { App } from "./components/App";
import { ChatContext } from "./components/context";
import { Drafts } from "./drafts";
import { Lines } from "./lines";
import { parseRoute, routeOf } from "./route";

const WATCH_EVERY = 5_000;

const root = document.baseURI;
const socketUrl = new URL("v1/responses", root);
socketUrl.protocol = socketUrl.protocol.replace("http", "ws");

const chat = new Chat({
  api: new Api(root),
  lines: new Lines({ url: socketUrl.href }),
  drafts: new Drafts(() => localStorage),
  navigate: (id) => {
    if (parseRoute(location.hash) !== id) location.hash = routeOf(id);
  },
});

window.addEventListener("hashchange", () => chat.open(parseRoute(location.hash)));
window.addEventListener("online", () => chat.wake());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") chat.wake();
});
setInterval(() => chat.watch(), WATCH_EVERY);

const place = document.getElementById("app");
if (place === null) throw new Error("index.html has no element with the id app");
chat.start(parseRoute(location.hash));
render(
  <ChatContext.Provider value={chat}>
    <App />
  </ChatContext.Provider>,
  place,
);
