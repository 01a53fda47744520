"""Log probabilities on the wires: of the tokens of the text, where it is, in OpenAI's shapes."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseTextDeltaEvent, ResponseTextDoneEvent

from chatpager.engine.messages import FinishReason, SampledLogprobs, SamplingParams, StepOutput, TokenLogprob
from chatpager.engine.tokenizer import Tokenizer
from chatpager.server import encode_response, wire
from chatpager.server.requests import LOGPROBS
from chatpager.sessions.answers import Delta
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest
from tests.chat_models import SPECIAL
from tests.server.reading import chat, refused, respond
from tests.serving import GREEDY

ASKED = {"include": [LOGPROBS], "top_logprobs": 2}
CHAT = {"logprobs": True, "top_logprobs": 2, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello"}]


def text_of(logprobs):
    """A random model's bytes are not always characters, and it draws special tokens, which have no text."""
    drawn = b"".join(bytes(one["bytes"]) for one in logprobs if one["token"] not in SPECIAL)
    return drawn.decode(errors="replace")


def same(one, other):
    """Of two computations: one may have found in the cache what the other computed, which rounds otherwise."""
    assert [a["token"] for a in one] == [b["token"] for b in other]
    assert [a["logprob"] for a in one] == pytest.approx([b["logprob"] for b in other], abs=1e-3)
    for a, b in zip(one, other, strict=True):
        if "top_logprobs" in a:
            same(a["top_logprobs"], b["top_logprobs"])
    return True


def in_loop_each_time(monkeypatch, room, name):
    """A list that will have, of every call of that function, whether it was in the event loop."""
    ours, told = getattr(room, name), []

    def called(*given):
        told.append(threading.current_thread() is threading.main_thread())
        return ours(*given)

    monkeypatch.setattr(room, name, called)
    return told


def in_event(logprobs):
    """The item's, as events have them."""
    keys = ("token", "logprob")
    tops = [[{key: top[key] for key in keys} for top in one["top_logprobs"]] for one in logprobs]
    return [{**{key: one[key] for key in keys}, "top_logprobs": top} for one, top in zip(logprobs, tops, strict=True)]


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_they_are_asked_for():
    assert respond(input="a", include=[LOGPROBS]).params.logprobs == 0
    assert respond(input="a", **ASKED).params.logprobs == 2
    assert respond(input="a", **ASKED).parameters["top_logprobs"] == 2
    assert chat(logprobs=True).params.logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).params.logprobs == 20
    assert respond(input="a").params.logprobs is chat(logprobs=False).params.logprobs is None


def test_asked_for_in_the_wrong_way():
    assert refused(respond, input="a", logprobs=True) == "logprobs"
    assert refused(chat, include=[LOGPROBS]) == "include"
    assert refused(chat, top_logprobs=1) == "top_logprobs"
    for wrong in (-1, 21, "a", True):
        assert refused(respond, input="a", include=[LOGPROBS], top_logprobs=wrong) == "top_logprobs"
        assert refused(chat, logprobs=True, top_logprobs=wrong) == "top_logprobs"
    [warning] = respond(input="a", top_logprobs=2).parameters["warnings"]
    assert LOGPROBS in warning


# -- which text they stand with ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(chat_model):
    return Tokenizer(chat_model)


@settings(deadline=None)
@given(text=st.text("ab 你😀é", max_size=10), stops=st.lists(st.text("ab ", min_size=1, max_size=3), max_size=2))
def test_every_token_of_the_text_goes_with_its_text_once(tokenizer, text, stops):
    """Without a stop string the bytes are the text's; with one the last token may hold its beginning."""
    params = SamplingParams(max_tokens=100, logprobs=0, stop=tuple(stops))
    request = TurnRequest(id="resp_1", tenant="t", kind="response", model="m", messages=[], params=params)
    turn = LiveTurn(
        request, [5], tokenizer.text_stream(params), spell=tokenizer.spell, template="exact",
        eos=frozenset({2}), created_at=0, submitted=0.0,
    )  # fmt: skip
    deltas = []
    for place, token in enumerate([*tokenizer.encode_plain(text), 2]):
        sampled = SampledLogprobs(TokenLogprob(token, -float(place)), [])
        last = token == 2
        output = StepOutput(
            request_id="resp_1",
            token_ids=[token],
            logprobs=[sampled],
            finish_reason=FinishReason.STOP if last else None,
        )
        said, _ = turn.take(output, 0.0)
        deltas += said
    said = b""
    for delta in deltas:
        assert isinstance(delta, Delta)
        said += b"".join(bytes(one.bytes) for one in delta.logprobs)
        assert said.startswith("".join(d.text for d in deltas[: deltas.index(delta) + 1]).encode()) or stops
    places = [one.logprob for delta in deltas for one in delta.logprobs]
    assert places == [-float(place) for place in range(len(places))]
    told = "".join(delta.text for delta in deltas)
    assert told == turn.text
    assert said == text.encode() if not stops else said.startswith(told.encode())


# -- on the wires -----------------------------------------------------------------------------------------------------


async def test_a_response_has_them_in_its_item_and_in_its_events(server, monkeypatch):
    in_loop = in_loop_each_time(monkeypatch, encode_response, "_told")
    written = in_loop_each_time(monkeypatch, wire, "encoded_by_logprob")
    whole = await server.respond("Hello", **ASKED)
    Response.model_validate(whole)
    [part] = whole["output"][0]["content"]
    assert 0 < len(part["logprobs"]) <= whole["usage"]["output_tokens"], "of half a character there is no text"
    assert text_of(part["logprobs"]).startswith(part["text"])
    for one in part["logprobs"]:
        best, second = one["top_logprobs"]
        assert 0 >= best["logprob"] >= second["logprob"]
        assert {key: one[key] for key in best} == best, "greedy draws the likeliest"
    assert (await server.get("/v1/responses/" + whole["id"])).json == whole, "what is stored keeps them"
    assert written == [False, False], "of both there may be thousands"
    turn = server.hub.turns.told("default", whole["id"])
    assert turn.request.body(turn, turn.stream.ended).output, "not made dictionaries of, in the event loop"
    async with server.events("/v1/responses", {"input": "Hello", **GREEDY, **ASKED}) as events:
        over_http = [data async for _, data in events]
    assert in_loop.pop() is False, "there are many at the end"
    async with server.socket() as socket:
        await socket.create("Hello", **ASKED)
        over_socket = await socket.rest()
        assert in_loop.pop() is False
        response_id = over_socket[-1]["response"]["id"]
        await socket.send(type="response.resume", response_id=response_id, starting_after=-1)
        resumed = [frame for frame in await socket.rest() if frame["type"] != "chatpager.resumed"]
    assert resumed == over_socket and in_loop.pop() is False
    for frames in (over_http, over_socket):
        deltas = [f for f in frames if f["type"] == "response.output_text.delta"]
        assert all(ResponseTextDeltaEvent.model_validate(f).logprobs for f in deltas)
        [done] = [f for f in frames if f["type"] == "response.output_text.done"]
        ResponseTextDoneEvent.model_validate(done)
        told = [one for delta in deltas for one in delta["logprobs"]]
        [last] = frames[-1]["response"]["output"][0]["content"]
        assert told == done["logprobs"] == in_event(last["logprobs"])
        assert last["text"] == part["text"] and same(last["logprobs"], part["logprobs"])


async def test_without_being_asked_for_there_are_none(server, monkeypatch):
    written = in_loop_each_time(monkeypatch, wire, "encoded_by_logprob")
    told = await server.respond("Hello")
    assert told["output"][0]["content"][0]["logprobs"] == []
    assert (await server.get("/v1/responses/" + told["id"])).json == told
    assert not written, "a thread is for what is long"
    answer = (await server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 4})).json
    assert answer["choices"][0]["logprobs"] is None


async def test_a_chat_has_the_same(server):
    answer = (await server.post("/v1/chat/completions", {"messages": HELLO, **CHAT})).json
    ChatCompletion.model_validate(answer)
    [choice] = answer["choices"]
    [part] = (await server.respond("Hello", **ASKED))["output"][0]["content"]
    assert choice["logprobs"]["refusal"] is None and same(choice["logprobs"]["content"], part["logprobs"])
    async with server.events("/v1/chat/completions", {"messages": HELLO, **CHAT}) as events:
        chunks = [data async for _, data in events if data != "[DONE]"]
    told = []
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        [one] = chunk["choices"]
        assert bool(one["delta"].get("content")) == (one["logprobs"] is not None)
        told += one["logprobs"]["content"] if one["logprobs"] else []
    assert same(told, part["logprobs"])


async def test_each_of_several_choices_has_its_own(server, monkeypatch):
    in_loop = in_loop_each_time(monkeypatch, wire, "encoded_by")
    body = {"messages": HELLO, **CHAT, "temperature": 1.0, "n": 3, "seed": 1}
    answer = (await server.post("/v1/chat/completions", body)).json
    for choice in answer["choices"]:
        assert text_of(choice["logprobs"]["content"]).startswith(choice["message"]["content"])
    bare = {"prompt": "Hello", "logprobs": 1, "max_tokens": 4, "n": 2, "ignore_eos": True}
    both = (await server.post("/v1/completions", bare)).json["choices"]
    assert all(len(choice["logprobs"]["tokens"]) > 0 for choice in both)
    assert in_loop == [False, False], "of many choices it takes long"
