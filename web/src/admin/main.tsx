import { render } from "preact";
import "../styles/tokens.css";
import "../styles/page.css";
import "../styles/login.css";
import "./styles/frame.css";
import "./styles/figures.css";
import "./styles/tables.css";
import "./styles/turns.css";
import "./styles/blocks.css";
import { nextFrame } from "../frames";
import { Login } from "../login";
import { forgetWork, preference, themeOf, wear } from "../preferences";
import { AdminApi } from "./api";
import { App } from "./components/App";
import { StoreContext } from "./components/context";
import { AdminStore } from "./store";
import { language, openingLanguage } from "./words";

const api = new AdminApi(document.baseURI);
const login = new Login(api, ["admin", "read-only"], forgetWork);
const store = new AdminStore(api, login, nextFrame, (hash) => history.replaceState(null, "", hash));

wear(themeOf(preference("theme")));
language.value = openingLanguage(navigator.languages);
window.addEventListener("hashchange", () => store.go(location.hash));
document.addEventListener("visibilitychange", () => {
  if (store.paused.value) return;
  if (document.visibilityState === "visible") store.start();
  else store.stop(); // nobody looks
});

const place = document.getElementById("app");
if (place === null) throw new Error("admin.html has no element with the id app");
store.go(location.hash);
void login.ask().then(() => store.open());
render(
  <StoreContext.Provider value={store}>
    <App />
  </StoreContext.Provider>,
  place,
);
