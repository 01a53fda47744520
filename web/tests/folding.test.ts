import { describe, expect, it } from "vitest";
import { fromItems } from "../src/stored";
import { apply, begin, emptyThread } from "../src/turns";
import { paceParts } from "../src/format";
import type { ServerEvent } from "../src/events";
import type { AnyItem } from "../src/wire";
import { item, response } from "./server";

const account = { response_id: "resp_1", state: "completed" as const, usage: null, cache: null, timings: null, error: null };

describe("thoughts and calls", () => {
  const call: AnyItem = { id: "fc_1", type: "function_call", status: "completed", call_id: "call_1", name: "weather", arguments: '{"city": "Oslo"}' };

  it("are parts of the answer they belong to, and a result is a part of its call", () => {
    const items: AnyItem[] = [
      item("msg_1", "user", "Weather?"),
      { id: "rs_1", type: "reasoning", status: "completed", content: [{ type: "reasoning_text", text: "Look it up." }] },
      { ...call, chatpager: account },
      { id: "fco_1", type: "function_call_output", status: "completed", call_id: "call_1", output: "rain" },
      item("msg_2", "assistant", "It rains.", { ...account, response_id: "resp_2" }),
      { ...call, id: "fc_2", call_id: "call_2" },
    ];
    const { messages } = fromItems("conv_1", items, null);
    expect(messages.map(({ role, text, thoughts, responseId }) => [role, text, thoughts, responseId])).toEqual([
      ["user", "Weather?", "", null],
      ["assistant", "", "Look it up.", "resp_1"],
      ["assistant", "It rains.", "", "resp_2"],
    ]);
    expect(messages[1]?.calls).toEqual([{ id: "fc_1", callId: "call_1", name: "weather", arguments: '{"city": "Oslo"}', output: "rain" }]);
    expect(messages[2]?.calls.map((one) => one.id)).toEqual(["fc_2"]);
  });

  it("grow as they come", () => {
    const place = { output_index: 0 };
    const events: ServerEvent[] = [
      { type: "response.created", response: response("resp_1"), sequence_number: 0 },
      { type: "response.reasoning_text.delta", item_id: "rs_1", ...place, delta: "Look ", sequence_number: 1 },
      { type: "response.reasoning_text.delta", item_id: "rs_1", ...place, delta: "it up.", sequence_number: 2 },
      { type: "response.output_item.added", ...place, item: { ...call, arguments: "" } as AnyItem, sequence_number: 3 },
      { type: "response.function_call_arguments.delta", item_id: "fc_1", ...place, delta: '{"city"', sequence_number: 4 },
    ];
    const at = (count: number) => events.slice(0, count).reduce((thread, event) => apply(thread, event), begin(emptyThread("c", "ready"), "Hi", "t")).messages[1]!;
    expect(at(3).thoughts).toBe("Look it up.");
    expect(at(5).calls[0]?.arguments).toBe('{"city"');
    const whole = [...events, { type: "response.output_item.done", ...place, item: call, sequence_number: 5 } as ServerEvent];
    expect(whole.reduce((thread, event) => apply(thread, event), begin(emptyThread("c", "ready"), "Hi", "t")).messages[1]!.calls[0]?.arguments).toBe('{"city": "Oslo"}');
  });
});

it("the pace of an answer is that of its pieces since the first", () => {
  let thread = begin(emptyThread("c", "ready"), "Hi", "t", 1_000);
  thread = apply(thread, { type: "response.created", response: response("resp_1"), sequence_number: 0 }, 1_001);
  for (let piece = 1; piece <= 11; piece++) {
    thread = apply(thread, { type: "response.output_text.delta", item_id: "m", output_index: 0, delta: "x", sequence_number: piece }, 1_100 + piece * 100);
  }
  const { pace } = thread.messages[1]!;
  expect(pace).toEqual({ sent: 1_000, first: 1_200, last: 2_200, pieces: 11 });
  expect(paceParts(pace!)).toEqual(["about 11 tokens", "200 ms to first token", "10 tok/s"]);
  const theirs = apply(fromItems("c", [], "resp_1"), { type: "response.output_text.delta", item_id: "m", output_index: 0, delta: "x", sequence_number: 1 }, 5);
  expect(theirs.messages[0]).toMatchObject({ text: "x", pace: null }); // another page sent it: what was said is told in a rush
});
