import { useState } from "preact/hooks";
import { prefer, preference, themeOf, wear } from "../preferences";
import { BOUNDS, SAMPLING, type SamplingName, wish } from "../wishes";
import { LANGUAGES, words } from "../words";
import { Dialog } from "./Dialog";
import { useChat } from "./context";

export function Settings() {
  const { dialog } = useChat().store;
  return (
    <Dialog title={words.settings} onClose={() => (dialog.value = null)}>
      <ChatSettings />
      <PageSettings />
    </Dialog>
  );
}

/** What the open chat's turns ask for: a field that is empty leaves it to the server. */
function ChatSettings() {
  const chat = useChat();
  const wishes = chat.store.wishes.value;
  return (
    <section class="settings">
      <div class="settings-head">
        <h3>{words.settingsOfChat}</h3>
        <button type="button" class="text-button" disabled={Object.keys(wishes).length === 0} onClick={() => chat.opening.wish({})}>
          {words.reset}
        </button>
      </div>
      <label class="setting">
        <span>{words.instructions}</span>
        <textarea
          rows={4}
          dir="auto"
          value={wishes.instructions ?? ""}
          onInput={(event) => chat.opening.wish(wish(chat.store.wishes.peek(), "instructions", event.currentTarget.value))}
        />
        <small>{words.instructionsHint}</small>
      </label>
      <div class="settings-grid">
        {SAMPLING.map((name) => (
          <SamplingField key={name} name={name} />
        ))}
      </div>
    </section>
  );
}

function SamplingField({ name }: { name: SamplingName }) {
  const chat = useChat();
  const [label, hint] = words.sampling[name];
  const [wrong, setWrong] = useState(""); // in the browser's own words
  return (
    <label class="setting">
      <span>{label}</span>
      <input
        type="number"
        inputMode="decimal"
        {...BOUNDS[name]}
        placeholder={words.byDefault}
        value={chat.store.wishes.value[name] ?? ""}
        aria-invalid={wrong !== ""}
        onInput={(event) => {
          setWrong(event.currentTarget.validationMessage);
          if (event.currentTarget.validity.valid) chat.opening.wish(wish(chat.store.wishes.peek(), name, event.currentTarget.value));
        }}
      />
      <small class={wrong === "" ? undefined : "setting-wrong"}>{wrong || hint}</small>
    </label>
  );
}

function PageSettings() {
  const [theme, setTheme] = useState(() => themeOf(preference("theme")));
  const onTheme = (value: string) => {
    prefer("theme", value);
    setTheme(themeOf(value));
    wear(themeOf(value));
  };
  const onLanguage = (value: string) => {
    prefer("language", value);
    location.reload();
  };
  return (
    <section class="settings">
      <h3>{words.settingsOfPage}</h3>
      <div class="settings-grid">
        <label class="setting">
          <span>{words.theme}</span>
          <select value={theme} onChange={(event) => onTheme(event.currentTarget.value)}>
            {Object.entries(words.themes).map(([name, label]) => (
              <option key={name} value={name}>
                {label}
              </option>
            ))}
          </select>
        </label>
        <label class="setting">
          <span>{words.languageName}</span>
          <select value={words.locale} onChange={(event) => onLanguage(event.currentTarget.value)}>
            {Object.entries(LANGUAGES).map(([name, { language }]) => (
              <option key={name} value={name} lang={name}>
                {language}
              </option>
            ))}
          </select>
        </label>
      </div>
      <LogOut />
    </section>
  );
}

function LogOut() {
  const { login, sessions } = useChat();
  const { leavable, who } = login;
  if (!leavable.value) return null;
  return (
    <div class="settings-head">
      <span>{words.login.as(who.value?.role ?? "", who.value?.tenant ?? "")}</span>
      <button type="button" class="button" onClick={() => void sessions.report(() => login.leave())}>
        {words.login.leave}
      </button>
    </div>
  );
}
