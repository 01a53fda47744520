import { describe, expect, it } from "vitest";
import { isTerminal, parseEvent } from "../src/events";
import { textOf } from "../src/wire";
import { answerEvents, item } from "./server";

describe("a frame", () => {
  it("becomes the event it carries", () => {
    const event = answerEvents("resp_1", ["你好"])[1];
    expect(parseEvent(JSON.stringify(event))).toEqual(event);
  });

  it.each([["not JSON at all"], ["null"], ["[]"], ['"text"'], ['{"no":"type"}'], ['{"type":"response.something.new"}'], [new Blob()], [undefined]])(
    "that is no known event is passed over: %s",
    (frame) => {
      expect(parseEvent(frame)).toBeNull();
    },
  );

  it("ends a turn exactly when its type is terminal", () => {
    expect(answerEvents("resp_1", ["a", "b"]).map(isTerminal)).toEqual([false, false, false, false, true]);
  });
});

it("the text of an item is that of all its parts", () => {
  const one = item("msg_1", "assistant", "Hello ");
  one.content.push({ type: "output_text", text: "Ada" });
  expect(textOf(one)).toBe("Hello Ada");
});
