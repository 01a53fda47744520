"""A turn's log as Chat Completions; the openai package's own types are the measure."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from chatpager.server import wire
from chatpager.server.encode_chat import ChunkEncoder, completion, usage_of_all
from chatpager.sessions.answers import ToolCall
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import USAGE, ended, log

COUNTS = {
    "prompt_tokens": 20,
    "completion_tokens": 3,
    "total_tokens": 23,
    "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 16},
}


def chunks(events, include_usage=False, index=0):
    encoder = ChunkEncoder("chatcmpl_1", 1_700_000_000_123, "tiny", tells_usage=include_usage)
    found = []
    for event in events:
        ours = {"state": event.status} if isinstance(event, Ended) else None
        found += encoder.feed(event, index, ours)
    found = [json.loads(wire.encode(c)) for c in [*found, *([encoder.usage(USAGE)] if include_usage else [])]]
    for chunk in found:
        ChatCompletionChunk.model_validate({k: v for k, v in chunk.items() if k != "chatpager"})
        assert (chunk["id"], chunk["object"], chunk["created"], chunk["model"]) == (
            "chatcmpl_1", "chat.completion.chunk", 1_700_000_000, "tiny",
        )  # fmt: skip
    return found


@pytest.mark.parametrize(("status", "reason"), [("completed", "stop"), ("incomplete", "length"), ("cancelled", "stop")])
def test_role_then_text_then_the_reason(status, reason):
    first, *pieces, last = chunks(log("Hel", "lo", status=status, prefills=2))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [piece["choices"][0]["delta"] for piece in pieces] == [{"content": "Hel"}, {"content": "lo"}]
    assert {piece["choices"][0]["finish_reason"] for piece in [first, *pieces]} == {None}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, reason)
    assert last["chatpager"] == {"state": status}
    assert "usage" not in last


def test_usage_comes_last_and_only_if_asked_for():
    plain, asked = chunks(log("a")), chunks(log("a"), include_usage=True)
    assert asked[:-1] == [{**chunk, "usage": None} for chunk in plain]
    assert asked[-1]["choices"] == [] and asked[-1]["usage"] == COUNTS


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_failure_gives_no_last_chunk(status):
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(log("a", status=status))] == [None, None]


def test_every_chunk_names_its_choice():
    assert {chunk["choices"][0]["index"] for chunk in chunks(log("a", "b"), index=3)} == {3}


CALLS = [ToolCall(f"call_1_{n}", "f", f'{{"n": {n}}}') for n in range(2)]


def test_a_call_has_its_name_once_and_then_its_arguments_as_they_come():
    deltas = [c["choices"][0]["delta"] for c in chunks(log("So:", *CALLS))]
    told = [part for delta in deltas for part in delta.get("tool_calls", [])]
    for n in range(2):
        first, *rest = [part for part in told if part["index"] == n]
        assert first == {
            "index": n,
            "id": f"call_1_{n}",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        }
        assert rest == [{"index": n, "function": {"arguments": piece}} for piece in ('{"n', f'": {n}}}')]


@pytest.mark.parametrize(
    ("calls", "status", "reason"),
    [
        (CALLS, "completed", "tool_calls"), (CALLS, "incomplete", "length"),
        ([ToolCall("c", "f", '{"n": ')], "completed", "stop"), ([ToolCall("c", "f", '{"n": ')], "incomplete", "length"),
    ],
)  # fmt: skip
def test_only_a_call_that_is_whole_is_why_an_answer_ended(calls, status, reason):
    assert chunks(log(*calls, status=status))[-1]["choices"][0]["finish_reason"] == reason


def test_one_object():
    whole = json.loads(
        wire.encode(completion("chatcmpl_1", 1_700_000_000_123, "tiny", [ended()], USAGE, {"state": "x"}))
    )
    ChatCompletion.model_validate({k: v for k, v in whole.items() if k != "chatpager"})
    assert whole == {
        "id": "chatcmpl_1", "object": "chat.completion", "created": 1_700_000_000, "model": "tiny",
        "choices": [
            {
                "index": 0, "message": {"role": "assistant", "content": "Hello"}, "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": COUNTS,
        "chatpager": {"state": "x"},
    }  # fmt: skip


def test_an_answer_of_calls_alone_says_that_it_has_no_text():
    whole = completion("c", 0, "tiny", [ended(text="", calls=tuple(CALLS))], USAGE, {})
    message = json.loads(wire.encode(whole))["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 2
    assert all("content" not in c["choices"][0]["delta"] for c in chunks(log(CALLS[0]))[1:])


def test_several_choices_count_the_prompt_once():
    usages = [USAGE, {**USAGE, "output_tokens": 4, "cached_tokens": 16}]
    whole = completion("c", 0, "tiny", [ended(), ended()], usage_of_all(usages), {})
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert json.loads(wire.encode(whole.usage)) == {**COUNTS, "completion_tokens": 7, "total_tokens": 27}
