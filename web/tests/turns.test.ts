import { describe, expect, it } from "vitest";
import { fromItems, reread } from "../src/stored";
import { unsentOf, withUnsent } from "../src/unsent";
import {
  type Message,
  type Thread,
  adopt,
  apply,
  begin,
  emptyThread,
  interrupt,
  liveAnswer,
  lose,
  refuse,
  stopping,
  withdraw,
} from "../src/turns";
import type { ServerEvent } from "../src/events";
import type { ResponseObject } from "../src/wire";
import { answerEvents, cache, item, response, timings, usage } from "./server";

const started = () => begin(emptyThread("conv_1", "ready"), "My name is Ada.", "turn-1");
const after = (events: ServerEvent[], thread = started()) => events.reduce(apply, thread);
const answerOf = (thread: Thread) => thread.messages.at(-1) as Message;
const shown = (thread: Thread) => thread.messages.map((one) => [one.role, one.text, one.state]);
const terminal = (change: Partial<ResponseObject>): ServerEvent => ({
  type: change.status === "failed" ? "response.failed" : "response.incomplete",
  response: response("resp_1", change),
  sequence_number: 99,
});

describe("a turn that is sent", () => {
  it("shows the message and an empty answer at once", () => {
    expect(shown(started())).toEqual([
      ["user", "My name is Ada.", "sending"],
      ["assistant", "", "sending"],
    ]);
  });

  it("is acknowledged by response.created", () => {
    const thread = after(answerEvents("resp_1", ["Hello"]).slice(0, 1));
    expect(thread.messages.map((one) => one.state)).toEqual(["completed", "in_progress"]);
    expect(answerOf(thread).responseId).toBe("resp_1");
  });

  it("grows by its deltas, wherever the text is cut", () => {
    const text = "Hello Ada 你好, how are you?";
    for (let cut = 0; cut <= text.length; cut++) {
      const thread = after(answerEvents("resp_1", [text.slice(0, cut), text.slice(cut)]).slice(0, 3));
      expect(answerOf(thread).text).toBe(text);
      expect(answerOf(thread).state).toBe("in_progress");
    }
  });

  it("is finished by its terminal event alone, which carries the receipt", () => {
    const events = answerEvents("resp_1", ["Hello ", "Ada"]);
    expect(answerOf(after(events.slice(0, -1))).state).toBe("in_progress");
    const thread = after(events);
    expect(answerOf(thread)).toMatchObject({ text: "Hello Ada", state: "completed", receipt: { usage, cache, timings } });
    expect(liveAnswer(thread)).toBeNull();
  });

  it("takes no event twice", () => {
    const events = answerEvents("resp_1", ["Hello ", "Ada"]);
    const doubled = events.slice(0, 3).flatMap((event) => [event, event]);
    expect(answerOf(after(doubled)).text).toBe("Hello Ada");
  });

  it("believes the whole text over the deltas it saw", () => {
    const events = answerEvents("resp_1", ["Hello ", "Ada"]);
    expect(answerOf(after([events[0], events[2], events[3]] as ServerEvent[])).text).toBe("Hello Ada");
  });

  it.each([
    ["cancelled", { status: "cancelled" }, null],
    ["incomplete", { status: "incomplete", incomplete_details: { reason: "max_output_tokens" } }, null],
    ["interrupted", { status: "failed", error: { code: "server_restarted", message: "It stopped." } }, null],
    ["failed", { status: "failed", error: { code: "server_error", message: "It broke." } }, "It broke."],
  ] as const)("keeps its text and says so when it was %s", (state, change, error) => {
    const thread = after([...answerEvents("resp_1", ["Hel"]).slice(0, 2), terminal({ ...change, chatpager: { state } })]);
    expect(answerOf(thread)).toMatchObject({ text: "Hel", state, error });
  });

  it("shows how far the prompt is read until the first text comes", () => {
    const [created, delta] = answerEvents("resp_1", ["Hello"]) as [ServerEvent, ServerEvent];
    const reading = after([created, { type: "chatpager.prefill", response_id: "resp_1", done: 512, total: 2048, cached: 128 }]);
    expect(answerOf(reading).prefill).toEqual({ done: 512, total: 2048, cached: 128 });
    expect(answerOf(apply(reading, delta)).prefill).toBeNull();
  });

  it("can be asked to stop, and the asking can fail", () => {
    expect(answerOf(stopping(started(), true)).stopping).toBe(true);
    expect(answerOf(stopping(stopping(started(), true), false)).stopping).toBe(false);
  });
});

describe("an error frame", () => {
  const error: ServerEvent = {
    type: "error",
    status: 409,
    error: { type: "invalid_request_error", code: "session_busy", message: "Another turn is running.", param: null },
  };

  it("before response.created refuses the message and says why", () => {
    const thread = apply(started(), error);
    expect(shown(thread)).toEqual([["user", "My name is Ada.", "refused"]]);
    expect(thread.messages[0]?.error).toBe("Another turn is running.");
  });

  it("after response.created leaves the turn running until its terminal event", () => {
    const thread = after([...answerEvents("resp_1", ["Hello"]).slice(0, 1), error]);
    expect(answerOf(thread)).toMatchObject({ state: "in_progress", error: "Another turn is running." });
  });

  it("changes nothing where no turn runs", () => {
    const thread = after(answerEvents("resp_1", ["Hello"]));
    expect(apply(thread, error)).toBe(thread);
    expect(refuse(thread, "late")).toBe(thread);
  });

  it("leaves a message that can be taken back", () => {
    const thread = apply(started(), error);
    expect(withdraw(thread, "turn-1").messages).toEqual([]);
    expect(withdraw(after(answerEvents("resp_1", ["Hi"])), "turn-1").messages).toHaveLength(2);
  });
});

describe("a turn whose socket dropped", () => {
  const running = after(answerEvents("resp_1", ["Hel", "lo"]).slice(0, 2));

  it("looks neither finished nor failed, and may be stopped again", () => {
    expect(answerOf(lose(stopping(running, true)))).toMatchObject({ text: "Hel", state: "lost", stopping: false });
    expect(liveAnswer(lose(running))).not.toBeNull();
  });

  it("takes on what the server says of it", () => {
    const partial = adopt(lose(running), response("resp_1", { output: [item("msg_1", "assistant", "Hello A")] }));
    expect(answerOf(partial)).toMatchObject({ text: "Hello A", state: "lost" });
    const whole = adopt(partial, response("resp_1", { status: "completed", output: [item("msg_1", "assistant", "Hello Ada")], usage }));
    expect(answerOf(whole)).toMatchObject({ text: "Hello Ada", state: "completed", receipt: { usage, cache: null, timings: null } });
  });

  it("keeps its text while the server tells none yet, or less", () => {
    expect(answerOf(adopt(lose(running), response("resp_1"))).text).toBe("Hel");
    const behind = response("resp_1", { output: [item("msg_1", "assistant", "He")] });
    expect(answerOf(adopt(lose(running), behind)).text).toBe("Hel");
  });

  it("is interrupted when the server no longer knows it", () => {
    expect(answerOf(interrupt(lose(running)))).toMatchObject({ text: "Hel", state: "interrupted" });
  });

  it("before it was acknowledged is on its way again", () => {
    expect(lose(started())).toEqual(started());
  });
});

describe("a message that the server may not have taken", () => {
  const kept = unsentOf(started(), "lost");
  const read = (...texts: string[]) => fromItems("conv_1", texts.map((text, index) => item(`msg_${index}`, "user", text)), null);

  it("is kept, with its place, and can be sent again as the same turn", () => {
    expect(kept).toEqual([{ key: "turn-1", text: "My name is Ada.", error: "lost", unsure: true, at: 0 }]);
    expect(withUnsent(read(), kept).messages).toMatchObject([{ key: "turn-1", state: "refused", error: "lost", unsure: true }]);
    expect(unsentOf(withUnsent(read(), kept), "other")).toEqual(kept);
  });

  it("is not there twice when it was taken", () => {
    expect(shown(withUnsent(read("Theirs", "My name is Ada."), kept)).map(([, text]) => text)).toEqual(["Theirs", "My name is Ada."]);
    expect(shown(withUnsent(read("Theirs"), kept)).map(([, text]) => text)).toEqual(["My name is Ada.", "Theirs"]);
    const later = kept.map((one) => ({ ...one, at: 1 })); // the same was said before
    expect(shown(withUnsent(read("My name is Ada."), later))).toHaveLength(2);
  });

  it("stands there too when it was certainly refused", () => {
    const refused = unsentOf(refuse(started(), "busy"), "lost");
    expect(shown(withUnsent(read("My name is Ada."), refused))).toHaveLength(2);
  });
});

describe("a conversation that is read", () => {
  const own = { response_id: "resp_1", state: "interrupted" as const, usage, cache, timings, error: { code: "server_restarted", message: "It stopped." } };
  const stored = [item("msg_1", "user", "Hi"), item("msg_2", "assistant", "Hel", own)];

  it("shows each item as it is stored", () => {
    const thread = fromItems("conv_1", stored, null);
    expect(shown(thread)).toEqual([
      ["user", "Hi", "completed"],
      ["assistant", "Hel", "interrupted"],
    ]);
    expect(answerOf(thread).receipt).toEqual({ usage, cache, timings });
  });

  it.each(["cancelled", "interrupted"] as const)("shows the place of an answer that was %s before it said anything", (state) => {
    const asked = item("msg_1", "user", "Hi", { ...own, state });
    const thread = fromItems("conv_1", [asked, item("msg_3", "user", "Hello?")], null);
    expect(shown(thread)).toEqual([["user", "Hi", "completed"], ["assistant", "", state], ["user", "Hello?", "completed"]]);
    expect(thread.messages[1]).toMatchObject({ responseId: "resp_1", receipt: { usage, cache, timings } });
    expect(thread.messages[0]).toMatchObject({ responseId: null, receipt: null });
  });

  it("says why an answer failed as it was said when it did", () => {
    const error = { code: "server_error", message: "It broke." };
    const live = after([...answerEvents("resp_1", ["Hel"]).slice(0, 2), terminal({ status: "failed", error, chatpager: { state: "failed" } })]);
    const failed = fromItems("conv_1", [stored[0]!, item("msg_2", "assistant", "Hel", { ...own, state: "failed", error })], null);
    expect(answerOf(failed)).toMatchObject({ state: "failed", error: "It broke." });
    expect(answerOf(failed).error).toBe(answerOf(live).error);
    expect(answerOf(fromItems("conv_1", stored, null)).error).toBeNull(); // interrupted: the page has its own words
  });

  it("learns why an answer failed whose end it did not see", () => {
    const lost = lose(after(answerEvents("resp_1", ["Hel", "lo"]).slice(0, 2)));
    const failed = item("msg_2", "assistant", "Hel", { ...own, state: "failed", error: { code: "server_error", message: "It broke." } });
    const again = reread(lost, fromItems("conv_1", [item("msg_1", "user", "My name is Ada."), failed], null));
    expect(answerOf(again)).toMatchObject({ key: "turn-1-answer", state: "failed", error: "It broke." });
  });

  it("has no receipt where none is stored", () => {
    const bare = item("msg_2", "assistant", "Hi", { ...own, usage: null, cache: null, timings: null });
    expect(answerOf(fromItems("conv_1", [bare], null)).receipt).toBeNull();
  });

  it("shows a running answer once, stored already or not, with text or none yet", () => {
    for (const text of ["Hel", ""]) {
      const running = item("msg_2", "assistant", text, { ...own, state: "in_progress", usage: null, cache: null, timings: null });
      const thread = fromItems("conv_1", [stored[0]!, running], "resp_1");
      expect(thread.messages).toHaveLength(2);
      expect(liveAnswer(thread)).toMatchObject({ text, responseId: "resp_1", receipt: null });
    }
    expect(shown(fromItems("conv_1", [stored[0]!], "resp_1")).at(-1)).toEqual(["assistant", "", "in_progress"]);
  });

  it("says of an answer without a turn no more than that it is not whole", () => {
    const left = { ...item("msg_2", "assistant", "Hel"), status: "incomplete" as const };
    expect(answerOf(fromItems("conv_1", [left], null)).state).toBe("unfinished");
  });

  it("keeps what did not change, so that nothing of it is drawn again", () => {
    const before = fromItems("conv_1", stored, null);
    const again = reread(before, fromItems("conv_1", stored, null));
    expect(again.messages[0]).toBe(before.messages[0]);
    expect(again.messages[1]).toBe(before.messages[1]);
  });

  it("keeps the key of a message that changed", () => {
    const before = lose(after(answerEvents("resp_1", ["Hel", "lo"]).slice(0, 2)));
    const again = reread(before, fromItems("conv_1", [item("msg_1", "user", "My name is Ada."), stored[1]!], null));
    expect(again.messages.map((one) => one.key)).toEqual(["turn-1", "turn-1-answer"]);
    expect(answerOf(again).state).toBe("interrupted");
  });

  it("never has one key twice", () => {
    const read = (...ids: string[]) => fromItems("conv_1", ids.map((id) => item(id, "user", id)), null);
    const keys = reread(read("msg_1", "msg_2"), read("msg_1", "msg_3", "msg_2")).messages.map((one) => one.key);
    expect(keys).toEqual(["msg_1", "msg_3", "msg_2"]);
  });

  it("keeps refused messages where they stood", () => {
    const refused = refuse(started(), "busy");
    const later = after(answerEvents("resp_2", ["Yes"]), begin(refused, "And now?", "turn-2"));
    const again = reread(later, fromItems("conv_1", [item("msg_1", "user", "And now?"), item("msg_2", "assistant", "Yes")], null), unsentOf(later, "lost"));
    expect(shown(again).map(([, text]) => text)).toEqual(["My name is Ada.", "And now?", "Yes"]);
  });

  it("shows what other roles said", () => {
    expect(shown(fromItems("conv_1", [item("msg_0", "system", "Be brief.")], null))).toEqual([["system", "Be brief.", "completed"]]);
  });
});
