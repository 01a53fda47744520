"""A turn's log as Anthropic's message and events: what a client adds up of the events is the message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.tool_calls import Thought
from chatpager.server import wire
from chatpager.server.encode_messages import MessageEncoder, message_end, message_usage, whole_message
from chatpager.sessions.answers import ToolCall
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import USAGE, ended, log

CALL = ToolCall("call_1", "search", '{"days": 2.50}')
CUT = '{"days": 2.'
calls = st.builds(ToolCall, st.text(min_size=1), st.text(min_size=1), st.sampled_from(["{}", CALL.arguments, CUT]))


def told(events, stopped=None, keep=0.0):
    encoder, usage = MessageEncoder("msg_1", "tiny"), message_usage(USAGE, keep)
    found = []
    for event in events:
        if isinstance(event, Ended):
            found += encoder.end(event, message_end(event, stopped), usage, {"state": event.status})
        else:
            found += encoder.feed(event, message_usage({**USAGE, "output_tokens": 0}, keep))
    return [json.loads(wire.encode(event)) for event in found]


def is_json(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def added_up(events):
    """As Anthropic's documentation has clients do it."""
    message, inputs = None, {}
    for event in events:
        match event["type"]:
            case "message_start":
                assert message is None
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] in ("text_delta", "thinking_delta"):
                    kind = delta["type"].removesuffix("_delta")
                    assert kind == block["type"]
                    block[kind] += delta[kind]
                else:
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            case "content_block_stop":
                assert event["index"] == len(message["content"]) - 1
                if is_json(inputs.get(event["index"], "")):
                    message["content"][event["index"]]["input"] = json.loads(inputs[event["index"]])
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"], "chatpager": event["chatpager"]}
            case kind:
                assert kind in ("ping", "message_stop")
    assert events[-1]["type"] == "message_stop"
    return message


thoughts = st.builds(Thought, st.text(min_size=1))


@given(
    st.lists(st.text(min_size=1) | calls | thoughts, max_size=6),
    st.sampled_from(["completed", "incomplete"]),
    st.integers(0, 2),
)
def test_the_events_add_up_to_the_message(pieces, status, prefills):
    events = log(*pieces, status=status, prefills=prefills)
    end = message_end(events[-1], None)
    whole = whole_message("msg_1", "tiny", events, end, message_usage(USAGE, 0.0), {"state": status})
    assert added_up(told(events)) == json.loads(wire.encode(whole))
    assert "".join(b["text"] for b in json.loads(wire.encode(whole))["content"] if b["type"] == "text") == "".join(
        piece for piece in pieces if isinstance(piece, str)
    )


def test_thoughts_are_a_block_of_their_own():
    kinds = [event for event in told(log(Thought("h"), Thought("m"), "a")) if event["type"] == "content_block_start"]
    assert [event["content_block"] for event in kinds] == [
        {"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""},
    ]  # fmt: skip


def test_the_order_of_events():
    kinds = [event["type"] for event in told(log("Hel", "lo", CALL, prefills=2))]
    text = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", "ping", "ping", *text, *text, "message_delta", "message_stop"]
    assert [event["type"] for event in told(log())] == ["message_start", "ping", "message_delta", "message_stop"]


def test_what_a_call_that_the_end_cut_has_written_is_told():
    events = log(ToolCall("call_1", "search", CUT), status="incomplete")
    events[-1] = ended("incomplete", calls=(ToolCall("call_1", "search", CUT + "5"),))
    pieces = [event["delta"]["partial_json"] for event in told(events) if event["type"] == "content_block_delta"]
    assert "".join(pieces) == CUT + "5"


@pytest.mark.parametrize(
    ("end", "stopped", "reason"),
    [
        (ended("completed"), None, ("end_turn", None)),
        (ended("completed"), "\n", ("stop_sequence", "\n")),
        (ended("completed", calls=(CALL,)), None, ("tool_use", None)),
        (ended("incomplete"), None, ("max_tokens", None)),
        (ended("incomplete", calls=(CALL,)), None, ("max_tokens", None)),
        (ended("completed", calls=(ToolCall("call_1", "search", '{"a'),)), None, ("end_turn", None)),
        (ended("cancelled"), None, ("end_turn", None)),
    ],
)
def test_why_it_ended(end, stopped, reason):
    told = message_end(end, stopped)
    assert (told.stop_reason, told.stop_sequence) == reason


@pytest.mark.parametrize("keep", [0.0, 300.0, 3600.0])
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
def test_the_three_counts_add_up_to_the_prompt(keep, cached, computed, written):
    usage = message_usage(
        {"input_tokens": cached + computed, "cached_tokens": cached, "cache_write_tokens": written, "output_tokens": 1},
        keep,
    )
    created = usage.cache_creation_input_tokens
    assert usage.input_tokens + created + usage.cache_read_input_tokens == cached + computed
    assert usage.cache_read_input_tokens == cached and created == (min(written, computed) if keep else 0)
    by_time = usage.cache_creation.ephemeral_5m_input_tokens, usage.cache_creation.ephemeral_1h_input_tokens
    assert by_time == ((0, created) if keep > 300 else (created, 0))
