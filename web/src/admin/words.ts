/** Every sentence of the admin page, in three languages; `words.value` is the one that is shown. */
import { computed, signal } from "@preact/signals";
import { prefer, preference } from "../preferences";
import { pickLanguage } from "../words";
import { en } from "./words.en";
import { zhHans } from "./words.zh-hans";
import { zhHant } from "./words.zh-hant";

export type Words = typeof en;

export const LANGUAGES = { en: "English", "zh-Hant": "繁體中文", "zh-Hans": "简体中文" } as const;
export type Language = keyof typeof LANGUAGES;

const CATALOGUES: Record<Language, Words> = { en, "zh-Hant": zhHant, "zh-Hans": zhHans };
export const language = signal<Language>("en");
export const words = computed(() => CATALOGUES[language.value]);
export const locale = computed(() => language.value);

/** Speak another language from now on, on the chat page too once it is loaded again. */
export function speak(chosen: Language): void {
  language.value = chosen;
  prefer("language", chosen);
}

/** What was chosen for this browser, or what its reader reads. */
export function openingLanguage(wanted: readonly string[]): Language {
  const kept = preference("language") ?? pickLanguage(wanted);
  return kept in LANGUAGES ? (kept as Language) : "en";
}
