"""POST /v1/completions: bare prompts, as text and as ids, beside no conversation."""

import asyncio

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.server.encode_completion import logprobs, usage_of_prompts
from chatpager.sessions.logprobs import PlacedLogprobs
from tests.serving import eventually

PATH = "/v1/completions"
FOX = "The quick brown fox jumps over the lazy dog."
EIGHT = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


async def complete(server, prompt, **more):
    answer = await server.post(PATH, {"prompt": prompt, **EIGHT, **more})
    assert answer.status == 200, answer.body
    Completion.model_validate({k: v for k, v in answer.json.items() if k != "chatpager"})
    return answer.json


def texts(answer):
    return [choice["text"] for choice in answer["choices"]]


async def streamed(server, prompt, **more):
    """Each choice's text, its logprobs and its end, and the last chunk's usage."""
    choices, usage = {}, None
    async with server.events(PATH, {"prompt": prompt, **EIGHT, **more}) as events:
        chunks = [chunk async for _, chunk in events]
    assert chunks.pop() == "[DONE]"
    asked = "stream_options" in more
    assert {chunk.get("usage", "none") for chunk in chunks[:-1]} == {None if asked else "none"}
    for chunk in chunks:
        usage = chunk.get("usage")
        for part in chunk["choices"]:
            assert part.keys() == {"index", "text", "logprobs", "finish_reason"}
            choice = choices.setdefault(part["index"], {"text": "", "logprobs": [], "finish_reason": None})
            choice["text"] += part["text"]
            choice["logprobs"] += [part["logprobs"]] if part["logprobs"] else []
            choice["finish_reason"] = part["finish_reason"]
    return choices, usage


async def test_a_prompt_is_asked_as_it_is(serve):
    heard = []
    async with serve(lambda prompt: heard.append(prompt) or "ok, 你好") as server:
        answer = await complete(server, FOX, ignore_eos=False, temprature=1)
        assert answer["choices"] == [{"index": 0, "text": "ok, 你好", "logprobs": None, "finish_reason": "stop"}]
        assert answer["chatpager"]["warnings"] == ["unknown field 'temprature' was passed over"]
        assert answer["chatpager"]["cache"]["template"] == "none"
        assert set(heard) == {FOX}
        assert answer["id"].startswith("cmpl_") and answer["object"] == "text_completion"


async def test_the_second_time_it_is_cached_and_nothing_is_stored(server):
    first, second = [await complete(server, FOX) for _ in range(2)]
    assert texts(first) == texts(second)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= (second["usage"]["prompt_tokens"] - 1) // 8 * 8 > 0
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + 8
    assert first["choices"][0]["finish_reason"] == "length"
    assert (await server.delete(f"/v1/chat/completions/{first['id']}")).status == 404
    assert not await server.hub.keeper.largest("default", 10)


async def test_text_and_ids_and_lists_of_them_are_one(server):
    ids = (await server.post("/tokenize", {"prompt": FOX})).json["tokens"]
    [alone] = texts(await complete(server, FOX))
    assert texts(await complete(server, ids)) == [alone]
    both = await complete(server, [FOX, "pack my box"])
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    assert texts(both)[0] == alone != texts(both)[1]
    assert texts(await complete(server, [ids, ids[:4]]))[0] == alone
    other = (await server.post("/tokenize", {"prompt": "pack my box"})).json["count"]
    assert both["usage"]["prompt_tokens"] == len(ids) + other and both["usage"]["completion_tokens"] == 16


async def test_text_that_spells_a_control_token_is_text_but_its_id_is_the_token(server):
    spelt = await complete(server, "<|im_start|>")
    assert spelt["usage"]["prompt_tokens"] > 1
    meant = await complete(server, [1])
    assert meant["usage"]["prompt_tokens"] == 1
    assert texts(meant) != texts(spelt)
    assert texts(await complete(server, [1], echo=True))[0].startswith("<|im_start|>")


async def test_several_answers_to_each_prompt(server):
    answer = await complete(server, [FOX, "a"], n=2, temperature=1, seed=7, best_of=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    count = sum([(await server.post("/tokenize", {"prompt": p})).json["count"] for p in (FOX, "a")])
    assert answer["usage"]["prompt_tokens"] == count and answer["usage"]["completion_tokens"] == 32
    assert texts(await complete(server, [FOX, "a"], n=2, temperature=1, seed=7)) == texts(answer)
    choices, usage = await streamed(
        server, [FOX, "a"], n=2, temperature=1, seed=7, stream_options={"include_usage": True}
    )
    assert [choices[i]["text"] for i in range(4)] == texts(answer)
    assert usage["total_tokens"] == count + 32


@pytest.mark.parametrize("echo", [False, True])
async def test_a_stream_says_what_the_whole_says(server, echo):
    whole = await complete(server, FOX, echo=echo)
    choices, usage = await streamed(server, FOX, echo=echo)
    assert choices[0]["text"] == texts(whole)[0] and texts(whole)[0].startswith(FOX) is echo
    assert choices[0]["finish_reason"] == "length" and usage is None


async def test_logprobs_stand_where_their_tokens_do(server):
    whole = await complete(server, FOX, logprobs=2)
    [choice] = whole["choices"]
    told = choice["logprobs"]
    assert len({len(value) for value in told.values()}) == 1 and told["text_offset"][0] == 0
    assert told["text_offset"] == sorted(told["text_offset"])
    whole_before = True
    for token, at, chosen, top in zip(
        told["tokens"], told["text_offset"], told["token_logprobs"], told["top_logprobs"], strict=True
    ):
        if whole_before and "\ufffd" not in token:
            assert choice["text"][at:].startswith(token)
        whole_before = "\ufffd" not in token
        assert chosen <= 0 and top[token] >= chosen and max(top.values()) >= chosen and 1 <= len(top) <= 3
    choices, _ = await streamed(server, FOX, logprobs=2)
    joined = {name: [entry for part in choices[0]["logprobs"] for entry in part[name]] for name in told}
    for name in ("tokens", "text_offset"):
        assert joined[name] == told[name]
    assert joined["token_logprobs"] == pytest.approx(told["token_logprobs"], abs=1e-4)
    for one, other in zip(joined["top_logprobs"], told["top_logprobs"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert (await complete(server, FOX, logprobs=0))["choices"][0]["logprobs"]["tokens"] == told["tokens"]


async def test_a_stop_string_ends_it_and_its_tokens_are_not_told(server):
    whole = await complete(server, FOX, logprobs=0)
    text = texts(whole)[0]
    stop = text[len(text) // 2 :][:2]
    cut = await complete(server, FOX, stop=stop, logprobs=0)
    [choice] = cut["choices"]
    assert choice["text"] == text[: text.index(stop)] and choice["finish_reason"] == "stop"
    assert all(at < len(choice["text"]) for at in choice["logprobs"]["text_offset"])


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({}, (400, "invalid_request", "prompt")),
        ({"prompt": ""}, (400, "invalid_request", "prompt")),
        ({"prompt": []}, (400, "invalid_request", "prompt")),
        ({"prompt": [[]]}, (400, "invalid_request", "prompt[0]")),
        ({"prompt": ["a", 1]}, (400, "invalid_request", "prompt[1]")),
        ({"prompt": ["a\0"]}, (400, "invalid_request", "prompt[0]")),
        ({"prompt": ["a"] * 129}, (400, "invalid_request", "prompt")),
        ({"prompt": [400]}, (400, "invalid_request", "prompt")),
        ({"prompt": [-1]}, (400, "invalid_request", "prompt")),
        ({"prompt": ["a", "b"], "n": 17}, (400, "invalid_request", "n")),
        ({"prompt": "a", "suffix": "b"}, (400, "invalid_request", "suffix")),
        ({"prompt": "a", "best_of": 2}, (400, "invalid_request", "best_of")),
        ({"prompt": "a", "echo": True, "logprobs": 1}, (400, "invalid_request", "echo")),
        ({"prompt": "a", "logprobs": 21}, (400, "invalid_request", "logprobs")),
        ({"prompt": "a", "logprobs": True}, (400, "invalid_request", "logprobs")),
        ({"prompt": "a", "max_tokens": 0}, (400, "invalid_request", "max_tokens")),
        ({"prompt": "a", "model": "x"}, (404, "model_not_found", "model")),
        ({"prompt": [5] * 100_000}, (400, "context_length_exceeded", "input")),
        ({"prompt": "a " * 3000}, (400, "context_length_exceeded", "input")),
        ({"prompt": ["a", [5] * 600][1:]}, (400, "context_length_exceeded", "input")),
        ({"prompt": "a", "prompt_cache_options": {"prewarm": True}}, (400, "invalid_request", "prompt_cache_options")),
        (b"[]", (400, "invalid_json", None)),
    ],
)
async def test_refusals(server, body, refusal):
    assert (await server.post(PATH, body)).refusal == refusal
    assert not server.hub.turns


async def test_a_prompt_that_does_not_fit_ends_the_ones_before_it(server):
    answer = await server.post(PATH, {"prompt": ["a", "b " * 3000], **EIGHT, "max_tokens": 300})
    assert answer.refusal == (400, "context_length_exceeded", "input")
    await eventually(lambda: not server.hub.turns)


async def test_a_pin_is_not_had_for_a_bare_prompt(server):
    answer = await complete(server, FOX, cache_control={"type": "ephemeral"})
    assert answer["chatpager"]["warnings"] == ["what a bare prompt leaves in the cache belongs to no conversation, "
                                               "so it is not pinned"]  # fmt: skip


async def test_it_ends_with_its_reader(server):
    server.gate.hold(after=2)
    asking = asyncio.create_task(server.post(PATH, {"prompt": "a", **EIGHT, "max_tokens": 300}))
    turn = await server.live_turn()
    await server.held()
    asking.cancel()
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "cancelled"


def broken(prompt):
    raise ZeroDivisionError


async def test_a_mistake_of_the_engine_is_an_error(serve):
    async with serve(broken) as server:
        assert (await server.post(PATH, {"prompt": "a"})).refusal == (500, "engine_step_failed", None)
        async with server.events(PATH, {"prompt": "a"}) as events:
            [(_, last)] = [event async for event in events]
    assert last["error"]["code"] == "engine_step_failed"


async def test_the_openai_package(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        whole = await client.completions.create(model="default", prompt=[FOX, "a"], max_tokens=8, temperature=0)
        stream = await client.completions.create(
            model="default", prompt=FOX, max_tokens=8, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


# -- parts, without a server


def test_the_likeliest_of_tokens_that_look_alike_is_told():
    placed = PlacedLogprobs(3, SampledLogprobs(TokenLogprob(7, -3.0), [TokenLogprob(8, -1.0), TokenLogprob(9, -2.0)]))
    told = logprobs([placed], {7: "\ufffd", 8: "\ufffd", 9: "a"}, before=2)
    assert told.top_logprobs == [{"\ufffd": -1.0, "a": -2.0}]
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["\ufffd"], [-3.0], [5])


COUNTS = st.fixed_dictionaries(
    {name: st.integers(0, 99) for name in ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")}
)


@given(st.lists(st.lists(COUNTS, min_size=1), min_size=1))
def test_usage_counts_each_prompt_once_and_every_answer(prompts):
    usage = usage_of_prompts(prompts)
    assert usage["output_tokens"] == sum(u["output_tokens"] for answers in prompts for u in answers)
    assert usage["input_tokens"] == sum(answers[0]["input_tokens"] for answers in prompts)
    assert usage["cached_tokens"] == sum(answers[0]["cached_tokens"] for answers in prompts)
