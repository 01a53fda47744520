/** The list's headings: conversations grouped by how long ago they were last used, those that are pinned before them. */
import { isPinned } from "./families";
import type { Conversation } from "./wire";
import { words } from "./words";

export interface AgeGroup {
  name: string;
  sessions: Conversation[];
}

/** Groups in the order of `sessions` (newest first); `now` is in milliseconds, days are the reader's own. */
export function groupByAge(sessions: readonly Conversation[], now: number): AgeGroup[] {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const day = 24 * 3600 * 1000;
  const pinned = sessions.filter(isPinned);
  const groups: AgeGroup[] = pinned.length > 0 ? [{ name: words.pinned, sessions: pinned }] : [];
  for (const session of sessions.filter((one) => !isPinned(one))) {
    const used = session.chatpager.updated_at * 1000;
    const name =
      used >= midnight ? words.today : used >= midnight - day ? words.yesterday : used >= midnight - 7 * day ? words.week : words.older;
    const last = groups.at(-1);
    if (last?.name === name) last.sessions.push(session);
    else groups.push({ name, sessions: [session] });
  }
  return groups;
}
