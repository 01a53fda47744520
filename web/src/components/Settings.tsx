import { useState } from "preact/hooks";
import { prefer, preference, themeOf, wear } from "../preferences";
import { type Bounds, SAMPLING, type SamplingName, boundsOf, wish } from "../wishes";
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
  const { wishes, context } = chat.store;
  const [label, hint] = words.sampling[name];
  const [mistyped, setMistyped] = useState<string | null>(null); // stays in the field: "0" may become "0.5"
  const bounds = boundsOf(name, context.value);
  const wished = wishes.value[name];
  const wrong = mistyped !== null || (wished !== undefined && wished > bounds.max);
  const onInput = ({ value, validity }: HTMLInputElement) => {
    const before = wishes.peek();
    const after = wish(before, name, value, context.peek());
    const taken = !validity.badInput && after !== before;
    setMistyped(taken ? null : value);
    if (taken) chat.opening.wish(after);
  };
  return (
    <label class="setting">
      <span>{label}</span>
      <input
        type="number"
        inputMode="decimal"
        {...bounds}
        placeholder={words.byDefault}
        value={mistyped ?? wished ?? ""}
        aria-invalid={wrong}
        onInput={(event) => onInput(event.currentTarget)}
      />
      <small class={wrong ? "setting-wrong" : undefined}>{wrong ? rangeInWords(bounds) : hint}</small>
    </label>
  );
}

function rangeInWords({ min, max, step }: Bounds): string {
  return words.range(min.toLocaleString(words.locale), max.toLocaleString(words.locale), step === 1);
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
