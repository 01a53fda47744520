import type { ComponentChild } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Login } from "../login";
import { words } from "../words";
import { Mark } from "./Icon";

interface LoginViewProps {
  login: Login;
  /** The link to the other page, which a key may be for. */
  otherwise: ComponentChild;
}

/** All there is to see while the server asks for a key, or for one of another role. */
export function LoginView({ login, otherwise }: LoginViewProps) {
  const field = useRef<HTMLInputElement>(null);
  const [refusal, setRefusal] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => field.current?.focus(), []);
  const said = words.login;
  const enter = async () => {
    setBusy(true);
    setRefusal(await login.enter(field.current?.value.trim() ?? ""));
    setBusy(false);
    field.current?.select();
  };
  const role = login.barred.value ? login.who.value?.role : null;
  return (
    <main class="login">
      <form
        class="login-box"
        onSubmit={(event) => {
          event.preventDefault();
          void enter();
        }}
      >
        <Mark />
        <h1>{said.title}</h1>
        <p>{login.ended ? said.ended : said.text}</p>
        <label>
          <span>{said.key}</span>
          <input
            ref={field}
            class="field"
            type="password"
            name="key"
            required
            autocomplete="current-password"
            aria-invalid={refusal !== null}
            aria-describedby="login-refusal"
          />
        </label>
        <p id="login-refusal" class="login-refusal" role="alert">
          {refusal ?? (role != null && <>{said.barred(role)} {otherwise}</>)}
        </p>
        <button type="submit" class="button button-main" disabled={busy}>
          {said.enter}
        </button>
      </form>
    </main>
  );
}
