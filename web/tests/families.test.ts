import { describe, expect, it } from "vitest";
import { type Member, asBranch, isPinned, latestOfEach, membersOf, pinnedAs, rootOf, versionsAt, withBranch } from "../src/families";
import type { Conversation } from "../src/wire";

function session(id: string, metadata: Record<string, string> = {}): Conversation {
  const chatpager = { title: "", updated_at: 1, forked_from: null, active_response_id: null };
  return { id, object: "conversation", created_at: 1, metadata, chatpager };
}

const name = (place: number) => `conv_${String(place).padStart(32, "0")}`;

describe("the versions of a message", () => {
  // root: A0 a1 B2 b3;  one: its message 2 edited;  two: that again;  three: one's answer 3 given again
  const members: Member[] = [
    { id: "root", parent: null, at: 0 },
    { id: "one", parent: "root", at: 2 },
    { id: "two", parent: "root", at: 2 },
    { id: "three", parent: "one", at: 3 },
  ];

  it.each([
    ["root", 0, []],
    ["root", 1, []],
    ["root", 2, ["root", "three", "two"]],
    ["one", 2, ["root", "one", "two"]],
    ["three", 2, ["root", "three", "two"]],
    ["two", 2, ["root", "three", "two"]],
    ["one", 3, ["one", "three"]],
    ["three", 3, ["one", "three"]],
    ["root", 3, []],
  ])("in %s at %i", (id, index, versions) => {
    expect(versionsAt(members, id, index)).toEqual(versions);
  });

  it("of a conversation without branches are none", () => {
    expect(versionsAt([], "alone", 0)).toEqual([]);
    expect(versionsAt(membersOf(session("alone")), "alone", 0)).toEqual([]);
  });
});

describe("a family", () => {
  it("is listed by its root, within the limits on metadata", () => {
    let root = session(name(0), { title: "Ada" });
    const made: Member[] = [{ id: name(0), parent: null, at: 0 }];
    for (let place = 1; ; place++) {
      const branch = { id: name(place), parent: name(Math.floor(place / 2)), at: place };
      const metadata = withBranch(root, branch);
      if (metadata === null) break;
      root = { ...root, metadata };
      made.push(branch);
    }
    expect(membersOf(root)).toEqual(made);
    expect(made.length).toBeGreaterThan(90);
    expect(Object.keys(root.metadata).length).toBeLessThanOrEqual(16);
    expect(Math.max(...Object.values(root.metadata).map((value) => value.length))).toBeLessThanOrEqual(512);
  });

  it("passes over what somebody else wrote there", () => {
    expect(membersOf(session("root", { branches_0: "x~9~1,y~0~z,,~" }))).toEqual([{ id: "root", parent: null, at: 0 }]);
  });

  it("is one row, of its latest", () => {
    const branch = session("branch", asBranch({ branches_0: "x", pinned: "true" }, "root"));
    expect(branch.metadata).toEqual({ branch_of: "root", pinned: "true" });
    expect(rootOf(branch)).toBe("root");
    expect(latestOfEach([branch, session("other"), session("root")]).map((one) => one.id)).toEqual(["branch", "other"]);
  });
});

it("a pin is set and taken back", () => {
  const pinned = pinnedAs({ a: "b" }, true);
  expect(isPinned(session("x", pinned))).toBe(true);
  expect(pinnedAs(pinned, false)).toEqual({ a: "b" });
});
