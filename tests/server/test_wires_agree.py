"""However an answer comes from the engine, in whatever pieces, every wire tells the same of it."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.messages import FinishReason, SamplingParams, StepOutput, Usage
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import Tool
from chatpager.server import wire
from chatpager.server.encode_chat import ChunkEncoder, completion, completion_usage
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.protocol import ResponsesProtocol
from chatpager.server.routes_responses import _frames
from chatpager.server.service import facts_of, final_response
from chatpager.sessions.stream import Ended, Started
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest
from chatpager.sessions.turn_states import Happening
from tests.chat_models import TOOLS_CHATML, save_tokenizer

PROMPT = list(range(5, 25))
TOOL = Tool(name="search", description="", parameters={"type": "object"})
pieces = st.lists(
    st.one_of(
        st.text("ab <你😀\n", min_size=1, max_size=8),
        st.builds(
            '<tool_call>\n{{"name": "search", "arguments": {{"query": "{}"}}}}\n</tool_call>'.format,
            st.text("ab 你{}", max_size=6),
        ),
        st.sampled_from(["<tool_call>", "</tool_call>", '<tool_call>{"name": "other"', "<tool_", "<|im_end|>"]),
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tool-model"), TOOLS_CHATML))


def usage(tokens):
    return Usage(
        admitted=True, prompt_tokens=len(PROMPT), cached_tokens=8, committed_tokens=len(PROMPT) + tokens,
        output_tokens=tokens, preemptions=0, queue_seconds=0.0, prefill_seconds=0.0,
    )  # fmt: skip


def turn_of(tokenizer, ids, sizes, reason, stops=()):
    """A turn that has ended, whose tokens came so many at a time."""
    params = SamplingParams(max_tokens=1000, stop=tuple(stops))
    request = TurnRequest(
        id="resp_1", tenant="t", kind="response", model="m", messages=[], params=params, tools=[TOOL], may_call=True
    )
    parser = tokenizer.answer_parser({"search": TOOL}, opened=False)
    turn = LiveTurn(
        request, PROMPT, tokenizer.text_stream(params, marked=True), parser=parser, template="exact",
        eos=frozenset({2}), created_at=1000, submitted=0.0,
    )  # fmt: skip
    turn.stream.append(Started("resp_1", 1000))
    done = 0
    for size in [*sizes, len(ids)]:
        some, done = ids[done : done + size], done + size
        last = done >= len(ids)
        told = usage(len(ids)) if last else None
        output = StepOutput(request_id="resp_1", token_ids=some, finish_reason=reason if last else None, usage=told)
        said, _ = turn.take(output, 1.0)
        for event in said:
            turn.stream.append(event)
        if last:
            break
    turn.receipt = None
    turn.happen(Happening.STORED)
    turn.stream.append(turn.ended(2.0, 2000))
    return turn


def over_http(turn):
    async def told():
        encoder = ResponseEncoder(facts_of(turn))
        return [json.loads(frame.partition("\ndata: ")[2]) async for frame in _frames(turn, encoder)]

    return asyncio.run(told())


def over_a_socket(turn):
    protocol = ResponsesProtocol()
    protocol.receive_text('{"type": "response.create", "input": "a"}')
    protocol.began(facts_of(turn))
    for event in turn.stream.events:
        protocol.turn_event(event, final_response(turn, event) if isinstance(event, Ended) else None)
    return [json.loads(frame) for frame in protocol.frames_to_send()]


def as_chunks(turn):
    encoder = ChunkEncoder("chatcmpl_1", 1000, "m")
    chunks = [chunk for event in turn.stream.events for chunk in encoder.feed(event)]
    return [json.loads(wire.encode(chunk)) for chunk in chunks]


def in_deltas(frames):
    """Text and calls, put together from nothing but deltas, and the usage of the end."""
    text = "".join(f["delta"] for f in frames if f["type"] == "response.output_text.delta")
    calls = {}
    for frame in frames:
        if frame["type"] == "response.output_item.added" and frame["item"]["type"] == "function_call":
            calls[frame["item"]["id"]] = [frame["item"]["call_id"], frame["item"]["name"], ""]
        elif frame["type"] == "response.function_call_arguments.delta":
            calls[frame["item_id"]][2] += frame["delta"]
    return text, list(calls.values()), frames[-1]["response"]["usage"]


def in_object(response):
    texts = [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]
    calls = [i for i in response["output"] if i["type"] == "function_call"]
    return "".join(texts), [[c["call_id"], c["name"], c["arguments"]] for c in calls], response["usage"]


def in_chunks(chunks):
    text, calls = "", {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        text += choice["delta"].get("content") or ""
        for part in choice["delta"].get("tool_calls", []):
            call = calls.setdefault(part["index"], [part.get("id"), part["function"].get("name"), ""])
            call[2] += part["function"].get("arguments", "")
    return text, list(calls.values())


@settings(deadline=None, max_examples=60)
@given(
    pieces=pieces,
    sizes=st.lists(st.integers(1, 9), max_size=12),
    reason=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED]),
    stops=st.sampled_from([(), ("b ",), ("call>",)]),
)
def test_text_calls_and_usage_are_the_same_on_every_wire_and_for_every_split(tokenizer, pieces, sizes, reason, stops):
    ids = [*tokenizer.encode_plain("".join(pieces)), *([2] if reason is FinishReason.STOP else [])]
    turn, at_once = (turn_of(tokenizer, ids, how, reason, stops) for how in (sizes, []))
    ended = turn.stream.ended
    sse, socket = over_http(turn), over_a_socket(turn)
    assert sse == socket
    whole = json.loads(wire.encode(final_response(turn, ended)))
    assert sse[-1]["response"] == whole
    assert in_deltas(sse) == in_object(whole)
    assert in_object(whole) == in_object(json.loads(wire.encode(final_response(at_once, at_once.stream.ended))))
    text, calls, used = in_object(whole)
    counts = turn.stored_usage(ended)
    one = json.loads(wire.encode(completion("chatcmpl_1", 1000, "m", [ended], counts, {})))
    [choice] = one["choices"]
    called = [
        [c["id"], c["function"]["name"], c["function"]["arguments"]] for c in choice["message"].get("tool_calls", [])
    ]
    assert in_chunks(as_chunks(turn)) == (choice["message"].get("content") or "", called) == (text, calls)
    assert completion_usage(counts).completion_tokens == used["output_tokens"] == one["usage"]["completion_tokens"]
    assert one["usage"]["prompt_tokens"] == used["input_tokens"] == len(PROMPT)
    assert as_chunks(turn)[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
