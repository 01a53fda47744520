"""``n`` answers to one question: each a turn of its own, the prompt computed once for all."""

import asyncio

import pytest
from openai import AsyncOpenAI

from chatpager.errors import StoreError
from chatpager.server.input_items import input_messages
from chatpager.store import turns
from tests.looking import look
from tests.serving import eventually

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog."}]
SEEDED = {"messages": MESSAGES, "temperature": 1.0, "seed": 11, "max_tokens": 12, "ignore_eos": True}


async def ask(server, **more):
    answer = await server.post(PATH, {**SEEDED, **more})
    assert answer.status == 200, answer.body
    return answer.json


def texts(answer):
    return [choice["message"]["content"] for choice in answer["choices"]]


async def test_each_is_what_its_seed_alone_gives(server):
    together = await ask(server, n=3, store=False)
    alone = [await ask(server, seed=11 + i, store=False) for i in range(3)]
    assert texts(together) == [texts(answer)[0] for answer in alone]
    assert len(set(texts(together))) == 3
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]


async def test_the_prompt_is_counted_and_computed_once(server):
    answer = await ask(server, n=4)
    one = (await server.hub.engine.stats()).queried_tokens
    usage = answer["usage"]
    assert usage["completion_tokens"] == 48
    assert answer["chatpager"]["cache"]["computed_tokens"] == usage["prompt_tokens"] == one
    assert usage["total_tokens"] == usage["prompt_tokens"] + 48
    metrics = (await server.get("/metrics")).body.decode()
    assert f'chatpager_prompt_tokens_total{{source="computed"}} {usage["prompt_tokens"]}.0' in metrics
    assert "chatpager_generated_tokens_total 48.0" in metrics


async def test_every_choice_can_be_gone_on_from_with_its_own_tokens(server):
    first = await ask(server, n=3)
    length = first["usage"]["prompt_tokens"] + 12
    for text in texts(first):
        messages = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
        cache = (await ask(server, messages=messages))["chatpager"]["cache"]
        assert cache["device_tokens"] == length - 1


async def test_a_stream_of_several(server):
    whole = await ask(server, n=3, store=False)
    told = {0: "", 1: "", 2: ""}
    reasons = {}
    body = {**SEEDED, "n": 3, "stream": True, "stream_options": {"include_usage": True}, "store": False}
    async with server.events(PATH, body) as events:
        chunks = [chunk async for _, chunk in events]
    assert chunks.pop() == "[DONE]"
    usage = chunks.pop()
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 36
    for chunk in chunks:
        [choice] = chunk["choices"]
        told[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert list(told.values()) == texts(whole)
    assert reasons == {0: "length", 1: "length", 2: "length"}
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order), "the choices came one after the other"


async def test_a_stop_string_ends_its_choice_and_no_other(server):
    plain = texts(await ask(server, n=3, store=False))
    stop = next(c for c in plain[1] if c not in plain[0] + plain[2] and c.isprintable())
    answer = await ask(server, n=3, stop=stop)
    assert texts(answer) == [plain[0], plain[1].split(stop)[0], plain[2]]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "stop", "length"]
    await eventually(lambda: not server.hub.turns)


async def test_all_are_deleted_together(server):
    told = await ask(server, n=2)
    assert (await server.delete(f"{PATH}/{told['id']}")).json["deleted"] is True
    for name in (told["id"], f"{told['id']}-1"):
        assert (await server.delete(f"{PATH}/{name}")).refusal == (404, "response_not_found", None)
    follow = [*MESSAGES, {"role": "assistant", "content": texts(told)[1]}, {"role": "user", "content": "a"}]
    assert await server.service.store.match_content("default", input_messages(follow, "messages")) == []


async def test_deleted_while_they_stream(server):
    server.gate.hold(after=2)
    async with server.events(PATH, {**SEEDED, "n": 2, "max_tokens": 300, "stream": True}) as events:
        await server.held()
        turn = next(iter(server.hub.turns.values()))
        deleting = asyncio.create_task(server.delete(f"{PATH}/{turn.request.id}"))
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        assert (await deleting).json["deleted"] is True
        assert [chunk async for chunk in events]
    assert not server.hub.turns


async def test_all_end_with_their_reader(server):
    server.gate.hold(after=2)
    asking = asyncio.create_task(server.post(PATH, {**SEEDED, "n": 3, "max_tokens": 300}))
    await server.held()
    turns = list(server.hub.turns.values())
    assert len(turns) == 3
    asking.cancel()
    await eventually(lambda: server.hub.engine._commands.qsize() == 3)
    server.gate.open()
    assert [(await server.turn_ended(turn)).status for turn in turns] == ["cancelled"] * 3
    pool = await look(server.hub.engine, lambda engine: engine.pool.counts())
    assert pool["active"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_fits_no_cache_ends_them_all(serve, stream):
    async with serve(lambda prompt: "ok", blocks=8) as server:
        body = {"messages": [{"role": "user", "content": "word " * 60}], "n": 2}
        if stream:
            async with server.events(PATH, body) as events:
                *_, (_, last) = [event async for event in events]
            assert last["error"]["code"] == "kv_capacity_exceeded"
        else:
            assert (await server.post(PATH, body)).refusal == (507, "kv_capacity_exceeded", None)
        await eventually(lambda: not server.hub.turns)


async def test_each_takes_a_place(serve):
    async with serve(hub={"max_turns": 3}) as server:
        server.gate.hold(after=1)
        asking = asyncio.create_task(ask(server, n=2))
        await server.held()
        assert (await server.post(PATH, {**SEEDED, "n": 2})).refusal == (503, "server_is_overloaded", None)
        server.gate.open()
        await asking
        assert len(texts(await ask(server, n=3))) == 3


async def test_of_an_n_for_which_there_is_never_room_that_is_said(serve):
    async with serve(hub={"max_turns": 3}) as server:
        assert (await server.post(PATH, {**SEEDED, "n": 4})).refusal == (400, "invalid_request", "n")


async def test_all_are_stored_or_none(server, monkeypatch):
    store = server.service.store
    insert, count = turns.begin, []

    async def fails_at_the_second(c, new, *given):
        count.append(new.id)
        if len(count) == 2:
            raise StoreError("the disk is full")
        return await insert(c, new, *given)

    with monkeypatch.context() as broken:
        broken.setattr(turns, "begin", fails_at_the_second)
        assert (await server.post(PATH, {**SEEDED, "n": 3})).status == 503
    assert await store.active_turns("default") == [] and not server.hub.turns
    assert len(texts(await ask(server, n=3))) == 3


async def test_a_deletion_that_was_cut_short_can_be_asked_for_again(server, monkeypatch):
    told = await ask(server, n=3)
    delete, count = server.service.store.delete_turn, []

    async def fails_at_the_second(tenant, name):
        count.append(name)
        if len(count) == 2:
            raise StoreError("the disk is full")
        return await delete(tenant, name)

    with monkeypatch.context() as broken:
        broken.setattr(server.service.store, "delete_turn", fails_at_the_second)
        assert (await server.delete(f"{PATH}/{told['id']}")).status == 503
    assert (await server.delete(f"{PATH}/{told['id']}")).json["deleted"] is True
    for name in (told["id"], f"{told['id']}-1", f"{told['id']}-2"):
        assert (await server.delete(f"{PATH}/{name}")).status == 404


async def test_every_choice_s_prefix_is_kept(serve, tmp_path):
    kv = {"kv_dir": str(tmp_path / "kv")}
    async with serve(engine=kv) as server:
        told = await ask(server, n=2, max_tokens=40)
        cached = await look(
            server.hub.engine, lambda engine: [b.eviction_class.name for b in engine.pool.index.values()]
        )
        assert set(cached) == {"SOFT"}
    async with serve(engine=kv) as server:
        for text in texts(told):
            messages = [*MESSAGES, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
            cache = (await ask(server, messages=messages))["chatpager"]["cache"]
            assert cache["disk_tokens"] + cache["device_tokens"] == (told["usage"]["prompt_tokens"] + 39) // 8 * 8
            assert cache["disk_tokens"] > 0


async def test_the_account_of_choices_that_end_in_their_prompt(serve):
    async with serve(step=16) as server:
        server.gate.hold(after=2)
        asking = asyncio.create_task(server.post(PATH, {**SEEDED, "n": 3}))
        await server.held()
        turns = list(server.hub.turns.values())
        asking.cancel()
        await eventually(lambda: server.hub.engine._commands.qsize() == 3)
        server.gate.open()
        computed = {(await server.turn_ended(turn)).receipt.computed_tokens for turn in turns}
        assert len(computed) == 1 and computed.pop() > 0
        assert 'source="computed"} 0' not in (await server.get("/metrics")).body.decode()


async def test_a_response_has_one(server):
    answer = await server.post("/v1/responses", {"input": "a", "n": 2})
    assert answer.refusal == (400, "invalid_request", "n")
    assert "/v1/chat/completions" in answer.error["message"]


async def test_through_the_openai_package(server):
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        more = {"model": "tiny", "n": 2, "seed": 11, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
        whole = await client.chat.completions.create(messages=MESSAGES, **more)
        told = {0: "", 1: ""}
        async for chunk in await client.chat.completions.create(messages=MESSAGES, stream=True, **more):
            for choice in chunk.choices:
                told[choice.index] += choice.delta.content or ""
    assert [choice.message.content for choice in whole.choices] == list(told.values())
    assert told[0] != told[1]
