/** What the reader chose for this browser: kept where it lets the page store things. */
export type Theme = "system" | "light" | "dark";

const PREFIX = "chatpager.";

export function preference(name: "language" | "theme"): string | null {
  try {
    return globalThis.localStorage?.getItem(PREFIX + name) ?? null;
  } catch {
    return null; // storage is switched off
  }
}

export function prefer(name: "language" | "theme", value: string): void {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // as above: the choice lives as long as the page
  }
}

/** The page's work was another's, or is not for who comes next: its drafts go, and it is loaded anew. What the browser's reader chose stays. */
export function forgetWork(): void {
  const kept = [PREFIX + "language", PREFIX + "theme"];
  try {
    for (const key of Object.keys(localStorage)) if (key.startsWith(PREFIX) && !kept.includes(key)) localStorage.removeItem(key);
  } catch {
    // as above: there is nothing
  }
  location.reload();
}

export function themeOf(value: string | null): Theme {
  return value === "light" || value === "dark" ? value : "system";
}

/** Wear a theme: the styles follow the attribute, or the system where there is none. */
export function wear(theme: Theme, root: HTMLElement = document.documentElement): void {
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
}
