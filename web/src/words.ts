/** The page's words in the reader's language. Another choice takes effect when the page is loaded again. */
import { preference } from "./preferences";
import { en } from "./words/en";
import { zhHans } from "./words/zh-hans";
import { zhHant } from "./words/zh-hant";

export type Words = typeof en;

export const LANGUAGES: Record<string, Words> = { en, "zh-Hant": zhHant, "zh-Hans": zhHans };

/** The first of the reader's `wanted` languages that there is, else English. */
export function pickLanguage(wanted: readonly string[]): string {
  for (const tag of wanted) {
    const [language = "", ...rest] = tag.toLowerCase().split("-");
    if (language === "zh") return rest.some((part) => ["hant", "tw", "hk", "mo"].includes(part)) ? "zh-Hant" : "zh-Hans";
    if (language in LANGUAGES) return language;
  }
  return "en";
}

const chosen = preference("language") ?? pickLanguage(globalThis.navigator?.languages ?? []);

export const words: Words = LANGUAGES[chosen] ?? en;
