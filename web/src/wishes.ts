/** What each chat's turns ask for besides their input: kept in this browser, and else as the server has it of the last turn. */
import type { ResponseObject, Wishes } from "./wire";

export const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_output_tokens", "seed"] as const;
export type SamplingName = (typeof SAMPLING)[number];

export interface Bounds {
  min: number;
  max: number;
  step: number;
}

const BOUNDS: Record<SamplingName, Bounds> = {
  temperature: { min: 0, max: 2, step: 0.1 },
  top_p: { min: 0.01, max: 1, step: 0.01 },
  top_k: { min: 0, max: 100_000, step: 1 },
  min_p: { min: 0, max: 1, step: 0.01 },
  repetition_penalty: { min: 0.01, max: 2, step: 0.01 },
  max_output_tokens: { min: 1, max: 1_000_000, step: 1 },
  seed: { min: 0, max: 2 ** 31 - 1, step: 1 },
};

/** What a wish may be where prompt and answer have `context` tokens. */
export function boundsOf(name: SamplingName, context = Infinity): Bounds {
  const { max, ...bounds } = BOUNDS[name];
  return { ...bounds, max: name === "max_output_tokens" ? Math.min(max, context) : max };
}

/** One wish changed: an empty text takes it back. The same object where the text is none that can be wished. */
export function wish(wishes: Wishes, name: SamplingName | "instructions", text: string, context = Infinity): Wishes {
  const { [name]: _, ...rest } = wishes;
  if (text.trim() === "") return rest;
  if (name === "instructions") return { ...rest, instructions: text };
  const value = Number(text);
  const { min, max, step } = boundsOf(name, context);
  if (!Number.isFinite(value) || value < min || value > max || (step === 1 && !Number.isInteger(value))) return wishes;
  return { ...rest, [name]: value };
}

/** As the turn of a response was asked, so far as it tells: its temperature and the like may be the server's own choice. */
export function wishesOf(response: ResponseObject): Wishes {
  const { instructions, max_output_tokens } = response;
  const told = { instructions, max_output_tokens };
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value != null)) as Wishes;
}

const PREFIX = "chatpager.wishes.";
const NEW = "new";

export class KeptWishes {
  private readonly memory = new Map<string, Wishes>();

  constructor(private readonly storage: () => Storage) {}

  /** Null where this browser knows of none. */
  read(id: string | null): Wishes | null {
    const key = PREFIX + (id ?? NEW);
    try {
      const text = this.storage().getItem(key);
      return text === null ? null : (JSON.parse(text) as Wishes);
    } catch {
      return this.memory.get(key) ?? null;
    }
  }

  write(id: string | null, wishes: Wishes | null): void {
    const key = PREFIX + (id ?? NEW);
    if (wishes === null) this.memory.delete(key);
    else this.memory.set(key, wishes);
    try {
      if (wishes === null) this.storage().removeItem(key);
      else this.storage().setItem(key, JSON.stringify(wishes));
    } catch {
      // the memory holds it, as long as the page
    }
  }
}
