import { useEffect, useState } from "preact/hooks";

/** Tokens of the style sheet that a canvas needs by value. */
const NAMES = {
  text: "--text",
  quiet: "--text-quiet",
  line: "--line",
  accent: "--accent",
  warm: "--bar-warm",
  cold: "--bar-cold",
  free: "--block-free",
  active: "--block-active",
  shared: "--block-shared",
  dead: "--block-dead",
  kept: "--block-cold",
  tail: "--block-tail",
  idle: "--block-idle",
  soft: "--block-soft",
  hard: "--block-hard",
} as const;

export type Colours = Record<keyof typeof NAMES, string>;

export function readColours(): Colours {
  const probe = document.body.appendChild(document.createElement("i"));
  const entries = Object.entries(NAMES).map(([name, token]) => {
    probe.style.color = `var(${token})`;
    return [name, hex(getComputedStyle(probe).color)];
  });
  probe.remove();
  return Object.fromEntries(entries) as Colours;
}

/** `rgb(r, g, b)` as `#rrggbb`. */
function hex(colour: string): string {
  const parts = colour.match(/\d+/g) ?? [];
  return `#${parts.slice(0, 3).map((part) => Number(part).toString(16).padStart(2, "0")).join("")}`;
}

/** The colours of the theme that is shown, read again when the system changes it. */
export function useColours(): Colours {
  const [colours, put] = useState(readColours);
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const again = () => put(readColours());
    dark.addEventListener("change", again);
    const watch = new MutationObserver(again);
    watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "class"] });
    return () => {
      dark.removeEventListener("change", again);
      watch.disconnect();
    };
  }, []);
  return colours;
}
