/**
 * Branches. A branch is a conversation forked from another where a message was edited or an answer asked for again. All that come
 * of one root are a family: each has `branch_of` in its metadata, and the root's lists them, with where each left its parent.
 */
import type { Conversation, Metadata } from "./wire";

export interface Member {
  id: string;
  /** Null: the root. */
  parent: string | null;
  /** How many messages it has in common with its parent. */
  at: number;
}

const BRANCH_OF = "branch_of";
const LISTED = "branches_";
const PINNED = "pinned";
/** OpenAI's limit on a value of metadata, characters, and what of its 16 pairs branches may take. */
const VALUE = 512;
const PAIRS = 10;

export function rootOf(session: Conversation): string {
  return session.metadata[BRANCH_OF] ?? session.id;
}

export function isPinned(session: Conversation): boolean {
  return session.metadata[PINNED] !== undefined;
}

export function pinnedAs(metadata: Metadata, pinned: boolean): Metadata {
  const { [PINNED]: _, ...rest } = metadata;
  return pinned ? { ...rest, [PINNED]: "true" } : rest;
}

/** The root and its branches, oldest first. */
export function membersOf(root: Conversation): Member[] {
  const members: Member[] = [{ id: root.id, parent: null, at: 0 }];
  for (const entry of entriesOf(root.metadata)) {
    const [id = "", parent = "", at = ""] = entry.split("~");
    const known = members[Number(parent)];
    if (id !== "" && known !== undefined && Number.isInteger(Number(at))) members.push({ id, parent: known.id, at: Number(at) });
  }
  return members;
}

function entriesOf(metadata: Metadata): string[] {
  const lists = Array.from({ length: PAIRS }, (_, place) => metadata[LISTED + place] ?? "");
  return lists.flatMap((list) => list.split(",").filter((entry) => entry !== ""));
}

/** The root's metadata with one more branch; null when there is no room for it. */
export function withBranch(root: Conversation, branch: Member): Metadata | null {
  const parent = membersOf(root).findIndex((one) => one.id === branch.parent);
  const entry = `${branch.id}~${parent}~${branch.at}`;
  for (let place = 0; place < PAIRS; place++) {
    const list = root.metadata[LISTED + place] ?? "";
    const longer = list === "" ? entry : `${list},${entry}`;
    if (longer.length <= VALUE) return { ...root.metadata, [LISTED + place]: longer };
  }
  return null;
}

/** A branch's own metadata, of what it inherited. */
export function asBranch(metadata: Metadata, root: string): Metadata {
  const own = Object.entries(metadata).filter(([name]) => !name.startsWith(LISTED));
  return { ...Object.fromEntries(own), [BRANCH_OF]: root };
}

/** How many messages two members have in common; null when they are no relatives. */
function common(members: readonly Member[], a: string, b: string): number | null {
  const least = (id: string) => {
    const path = new Map<string, number>();
    let shared = Infinity;
    for (let one = members.find((m) => m.id === id); one !== undefined; one = members.find((m) => m.id === one?.parent)) {
      path.set(one.id, shared);
      if (one.parent !== null) shared = Math.min(shared, one.at);
    }
    return path;
  };
  const [ofA, ofB] = [least(a), least(b)];
  for (const [id, shared] of ofA) {
    const other = ofB.get(id);
    if (other !== undefined) return Math.min(shared, other);
  }
  return null;
}

/**
 * The versions of the message at `index` of conversation `id`, oldest first, each by a conversation that shows it: `id` itself for
 * its own. One alone is no choice: then there are none.
 */
export function versionsAt(members: readonly Member[], id: string, index: number): string[] {
  const versions: string[] = [];
  for (const member of members) {
    const shared = member.id === id ? Infinity : common(members, id, member.id);
    if (shared === null || shared < index) continue;
    const known = versions.findIndex((one) => one === member.id || (common(members, one, member.id) ?? 0) > index);
    if (known < 0) versions.push(member.id);
    else if (versions[known] !== id) versions[known] = member.id; // the latest of those that share it
  }
  const own = versions.findIndex((one) => one === id || (common(members, one, id) ?? 0) > index);
  if (own >= 0) versions[own] = id;
  return versions.length > 1 ? versions : [];
}

/** One row a family: that of its latest conversation, in the order of `sessions` (latest first). */
export function latestOfEach(sessions: readonly Conversation[]): Conversation[] {
  const seen = new Set<string>();
  return sessions.filter((one) => !seen.has(rootOf(one)) && seen.add(rootOf(one)));
}
