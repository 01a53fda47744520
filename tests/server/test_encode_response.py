"""A turn's log as the Responses API's events and object; the openai package's own types are the measure."""

import json

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from chatpager.engine.tool_calls import CallEnd, Thought
from chatpager.server import wire, wire_events
from chatpager.server.encode_response import ResponseEncoder, item_id, item_status, response_object
from chatpager.server.retelling import as_response, retelling
from chatpager.sessions.answers import Answer, Delta, ToolCall
from chatpager.sessions.logprobs import Logprob
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import RECEIPT, TIMINGS, USAGE, ended, facts, final, log

EVENT = TypeAdapter(ResponseStreamEvent)


def encode(events, of=None):
    """The log's events as the wire's, each as a client parses it."""
    of = of or facts()
    encoder = ResponseEncoder(of)
    return [
        json.loads(wire.encode(frame))
        for event in events
        for frame in encoder.feed(event, final(event, of) if isinstance(event, Ended) else None)
    ]


STATUS = {
    "completed": ("response.completed", "completed", "completed"),
    "incomplete": ("response.incomplete", "incomplete", "incomplete"),
    "cancelled": ("response.incomplete", "cancelled", "incomplete"),
    "failed": ("response.failed", "failed", "incomplete"),
    "interrupted": ("response.failed", "failed", "incomplete"),
}


@pytest.mark.parametrize("status", STATUS)
def test_every_end(status):
    *_, done, last = encode(log("Hel", "lo", status=status))
    event, shown, item = STATUS[status]
    response = last["response"]
    assert (last["type"], response["status"]) == (event, shown)
    assert done["type"] == "response.output_item.done" and done["item"] == response["output"][0]
    assert done["item"]["status"] == item
    assert done["item"]["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert response["chatpager"]["state"] == status
    assert (response["completed_at"] is not None) == (status == "completed")
    assert response["incomplete_details"] == ({"reason": "max_output_tokens"} if status == "incomplete" else None)


def test_why_it_failed():
    failed = encode(log("a", status="failed"))[-1]["response"]["error"]
    assert failed == {"code": "engine_step_failed", "message": "a step failed"}
    assert encode(log("a", status="interrupted"))[-1]["response"]["error"]["code"] == "server_restarted"
    assert encode(log("a"))[-1]["response"]["error"] is None


@pytest.mark.parametrize("status", STATUS)
@pytest.mark.parametrize("pieces", [[], ["Hello"], ["\N{GRINNING FACE}", "\n", '"']])
def test_the_openai_package_understands_every_event(status, pieces):
    for event in encode(log(*pieces, status=status)):
        event = json.loads(json.dumps(event))
        event.get("response", {}).pop("chatpager", None)
        if (error := event.get("response", {}).get("error")) is not None:
            error["code"] = "server_error"  # theirs is a closed list of their own codes
        assert EVENT.validate_python(event).type == event["type"]


def test_an_answer_without_a_token_has_no_item():
    events = encode(log(status="cancelled"))
    assert [e["type"] for e in events] == ["response.created", "response.in_progress", "response.incomplete"]
    assert events[-1]["response"]["output"] == []


def test_an_answer_that_is_empty_has_an_empty_item():
    events = encode(log(tokens=1))
    assert [e["type"] for e in events][2:] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


CALLS = [ToolCall(f"call_1_{n}", "f", f'{{"n": {n}}}') for n in range(3)]


@pytest.mark.parametrize("pieces", [CALLS[:1], ["a", CALLS[0], "b", CALLS[1]], [*CALLS[:2], "a", CALLS[2], "b"]])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_items_stand_in_the_order_in_which_they_began(pieces, status):
    events = encode(log(*pieces, status=status))
    output = events[-1]["response"]["output"]
    for event in events:
        event.get("response", {}).pop("chatpager", None)
        EVENT.validate_python(event)
        if "output_index" in event:
            assert event.get("item_id", event.get("item", {}).get("id")) == output[event["output_index"]]["id"]
    done = {e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"}
    assert [done[i] for i in range(len(output))] == output
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert [i["arguments"] for i in output if i["type"] == "function_call"] == [call.arguments for call in calls]
    for place, item in enumerate(output):
        if item["type"] == "function_call":
            assert arguments_told(events, place) == [item["arguments"]] * 2 and item["status"] == "completed"


def arguments_told(events, place):
    """Those of one call: its deltas joined, and those that were told at its end."""
    told = [event for event in events if event.get("output_index") == place and "arguments" in event["type"]]
    assert told[-1]["type"].endswith(".done") and all(event["delta"] for event in told[:-1])
    return ["".join(event["delta"] for event in told[:-1]), told[-1]["arguments"]]


@pytest.mark.parametrize("shown", [0, 2, 3, 4])
def test_a_call_that_is_cut_is_incomplete_and_told_as_far_as_it_came(shown):
    """``shown``: of the events of a call that breaks off; the rest is told with the end."""
    cut = ToolCall("call_1_9", "f", '{"n": ')
    *events, end = log(CALLS[0], cut, status="incomplete")
    events = encode([*events[: len(events) - 3 + min(shown, 3)], *([CallEnd()] if shown == 4 else []), end])
    whole, broken = events[-1]["response"]["output"]
    assert (whole["status"], broken["status"], broken["arguments"]) == ("completed", "incomplete", '{"n": ')
    assert arguments_told(events, 1) == ['{"n": '] * 2
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == [whole, broken]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        ([Thought("a"), Thought("b"), "c"], ["reasoning", "message"]),
        ([Thought("a"), CALLS[0], Thought("b"), "c"], ["reasoning", "function_call", "reasoning", "message"]),
        ([Thought("a"), "b", Thought("c"), "d", CALLS[0]], ["reasoning", "message", "reasoning", "function_call"]),
        ([Thought("a")], ["reasoning"]),
    ],
)
@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("shown", [True, False])
def test_thoughts_are_items(pieces, kinds, status, shown):
    """``shown``: or else only the end tells of all."""
    started, *events, end = log(*pieces, status=status)
    events = encode([started, *(events if shown else []), end])
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == kinds
    for event in events:
        event.get("response", {}).pop("chatpager", None)
        EVENT.validate_python(event)
    done = {e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"}
    assert [done[i] for i in range(len(output))] == output
    for place, item in enumerate(output):
        if item["type"] == "reasoning":
            told = [e for e in events if e.get("output_index") == place]
            assert [e["type"].removeprefix("response.") for e in told[:2]] == [
                "output_item.added",
                "content_part.added",
            ]
            text = "".join(e["delta"] for e in told if e["type"] == "response.reasoning_text.delta")
            [whole] = [e["text"] for e in told if e["type"] == "response.reasoning_text.done"]
            assert item["content"] == [{"type": "reasoning_text", "text": text}] and text == whole
            is_last = place == len(output) - 1
            assert item["status"] == ("incomplete" if is_last and status == "incomplete" else "completed")
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


def test_a_call_that_only_the_end_tells_of_is_told_then():
    started = log()[0]
    events = encode([started, ended(text="a", calls=(CALLS[0],))])
    assert [e["item"]["type"] for e in events if e["type"] == "response.output_item.added"] == [
        "message",
        "function_call",
    ]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == events[-1]["response"]["output"]


def test_every_event_of_an_item_names_it():
    of = facts("resp_abc")
    events = encode(log("a", "b", id="resp_abc"), of)
    named = {e.get("item_id") or e["item"]["id"] for e in events if "item_id" in e or "item" in e}
    assert named == {"msg_abc"} == {item_id("resp_abc")}
    assert {e["response"]["id"] for e in events if "response" in e} == {"resp_abc"}


def test_the_prefill_has_no_number():
    of = facts()
    encoder = ResponseEncoder(of)
    events = [frame for event in log("a", prefills=2)[:4] for frame in encoder.feed(event)]
    assert [getattr(e, "sequence_number", None) for e in events] == [0, 1, None, None, 2, 3, 4]
    assert events[2] == wire_events.PrefillEvent(response_id="resp_1", done=5, total=20, cached=0)


@pytest.mark.parametrize("text", ["b", ' "\\\n\x00', "\u2028 你好 😀", '"delta":"","sequence_number":0,'])
def test_text_that_goes_on_is_the_same_json_with_what_stands_around_it_made_ready(text):
    of, logprob = facts(), Logprob(token="a", bytes=[97], logprob=-1.0, top_logprobs=[])
    ready, plain = ResponseEncoder(of), ResponseEncoder(of)
    assert ready.told(Delta("a")) is None, "its item is to be announced first"
    for encoder in (ready, plain):
        for event in log("a")[:2]:
            list(encoder.feed(event))
    for number in (5, 6):
        [event] = plain.feed(Delta(text))
        assert event.sequence_number == number
        assert ready.told(Delta(text)) == (number, wire.encoded(event))
    assert ready.told(Delta("a", (logprob,))) is None
    list(ready.feed(Thought("so")))
    assert ready.told(Delta("a")) is None, "the thoughts are to be ended first"


def test_a_stream_that_breaks_ends_with_the_next_number():
    of = facts()
    encoder = ResponseEncoder(of)
    list(encoder.feed(log()[0]))
    body = wire.ErrorBody(message="no", type="server_error", param=None, code="internal_error")
    broken = json.loads(wire.encode(encoder.broken(body)))
    assert broken == {"type": "error", "sequence_number": 2, "message": "no", "code": "internal_error", "param": None}
    assert EVENT.validate_python(broken).type == "error"


def test_the_end_needs_its_object():
    with pytest.raises(AssertionError):
        list(ResponseEncoder(facts()).feed(ended()))


# -- the object -------------------------------------------------------------------------------------------------------


def test_a_response_echoes_its_request():
    of = facts(
        previous_response_id="resp_0",
        conversation_id="conv_1",
        parameters={
            "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": 0.9, "store": False,
            "max_output_tokens": 7, "warnings": ["unknown field"], "anything": "else",
        },
    )  # fmt: skip
    response = json.loads(wire.encode(response_object(of)))
    Response.model_validate(response)
    assert response == {
        "id": "resp_1", "object": "response", "created_at": 1_700_000_000, "status": "in_progress", "model": "tiny",
        "output": [], "error": None, "incomplete_details": None, "instructions": "Be brief.", "metadata": {"a": "b"},
        "parallel_tool_calls": True, "temperature": 0.5, "top_p": 0.9, "tool_choice": "auto", "tools": [],
        "max_output_tokens": 7, "previous_response_id": "resp_0", "conversation": {"id": "conv_1"}, "store": False,
        "background": False, "completed_at": None, "max_tool_calls": None, "prompt_cache_key": None,
        "prompt_cache_retention": None, "reasoning": {"effort": None, "summary": None}, "safety_identifier": None,
        "service_tier": "default", "text": {"format": {"type": "text"}}, "top_logprobs": 0, "truncation": "disabled",
        "usage": None, "user": None, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "prompt_cache_diagnostics": None, "chatpager": {"warnings": ["unknown field"]},
    }  # fmt: skip


def test_the_account_of_a_response():
    response = json.loads(wire.encode(final(ended(), facts())))
    assert response["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 16},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 23,
    }
    assert response["chatpager"]["cache"]["device_tokens"] == RECEIPT.device_tokens == USAGE["cached_tokens"]
    assert response["chatpager"]["timings"]["ttft_ms"] == TIMINGS.ttft_ms
    assert response["completed_at"] == 1_700_000_001


def test_a_response_that_runs_shows_the_text_so_far():
    response = response_object(facts(), answer=Answer("Hel", (), 0))
    assert response.status == response.output[0].status == item_status("in_progress") == "in_progress"
    assert response.output[0].content == [wire.TextPart("output_text", "Hel")]
    assert response.chatpager == {}


@pytest.mark.parametrize("status", STATUS)
def test_what_is_told_from_the_store_says_the_same_in_one_piece_each(status):
    cut = ToolCall("call_1_2", "search", '{"q": "Os')
    whole_call = ToolCall("call_1_1", "search", "{}")
    events = log(Thought("They "), Thought("ask."), "Hel", "lo", whole_call, cut, status=status)
    events[3] = Delta("Hel", (Logprob("Hel", [72], -0.5, []),))
    first, whole = encode(events), final(events[-1], facts())
    whole = msgspec.structs.replace(whole, output=[_with_logprob(item) for item in whole.output])
    again = retelling(facts(), as_response(json.loads(wire.encode(whole))))
    again = [json.loads(wire.encode(event)) for event in again]
    assert [event["sequence_number"] for event in again] == list(range(len(again)))
    assert again[-1]["response"] == json.loads(wire.encode(whole))
    once = [kind for kind, before in zip(types(first), ["", *types(first)], strict=False) if kind != before]
    assert sorted(types(again)) == sorted(once)
    assert [event["item"] for event in again if "added" in event["type"] and "item" in event] == [
        event["item"] for event in first if "added" in event["type"] and "item" in event
    ]
    [told] = [event for event in again if event["type"] == "response.output_text.delta"]
    assert told["logprobs"] == [{"token": "Hel", "logprob": -0.5, "top_logprobs": []}]


def test_thoughts_that_lie_beside_each_other_are_told_apart():
    """As they are stored where the model said something between them: its text is one item, at its first place."""
    first = log("Well. ", Thought("One."), "So: ", Thought("Two."), "Hello")
    again = retelling(facts(), final(first[-1], facts()))
    done = [
        (e.item.id, e.item.content[0].text)
        for e in again
        if e.type.endswith("item.done") and e.item.type == "reasoning"
    ]
    said = [(e.item_id, e.delta) for e in again if e.type == "response.reasoning_text.delta"]
    assert said == done and len(done) == 2


def types(events):
    return [event["type"] for event in events]


def _with_logprob(item):
    if not isinstance(item, wire.Item):
        return item
    part = msgspec.structs.replace(item.content[0], logprobs=[Logprob("Hel", [72], -0.5, [])])
    return msgspec.structs.replace(item, content=[part])
