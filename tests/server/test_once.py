"""A response that is asked for twice is begun once."""

import asyncio

import pytest

from tests.serving import GREEDY, eventually

ASK = {"input": "Hello", **GREEDY}


def keyed(key):
    return {"headers": {"Idempotency-Key": key}}


async def count(server, conversation):
    return len(await server.items(conversation))


async def test_the_second_time_it_is_the_same_response(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    first, second = [await server.post("/v1/responses", ask, **keyed("k")) for _ in range(2)]
    assert first.json == second.json
    assert await count(server, conversation) == 2
    streamed = await server.post("/v1/responses", {**ask, "stream": True}, **keyed("k"))
    assert streamed.body.count(b"event: response.created") == 1
    assert first.json["id"].encode() in streamed.body
    other = await server.post("/v1/responses", ask, **keyed("another"))
    assert other.json["id"] != first.json["id"]


async def test_while_it_runs_the_second_follows_the_first(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    server.gate.hold(after=3)
    first = asyncio.create_task(server.post("/v1/responses", ask, **keyed("k")))
    await server.live_turn()
    second = asyncio.create_task(server.post("/v1/responses", ask, **keyed("k")))
    async with server.socket() as socket:
        await socket.create("Hello", conversation=conversation, idempotency_key="k")
        created = await socket.receive()
        await server.held()
        server.gate.open()
        told = [(await first).json, (await second).json, (await socket.rest())[-1]["response"]]
    assert created["response"]["id"] == told[0]["id"]
    assert told[0] == told[1] == told[2]
    assert await count(server, conversation) == 2


async def test_two_that_come_at_once_are_one(server):
    conversation = await server.conversation()
    ask = {**ASK, "conversation": conversation}
    answers = await asyncio.gather(*(server.post("/v1/responses", ask, **keyed("k")) for _ in range(8)))
    assert len({answer.json["id"] for answer in answers}) == 1
    assert await count(server, conversation) == 2


async def test_a_reader_that_leaves_ends_nothing_that_its_key_finds_again(server):
    server.gate.hold(after=3)
    first = asyncio.create_task(server.post("/v1/responses", ASK, **keyed("k")))
    turn = await server.live_turn()
    first.cancel()
    await eventually(first.done)
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "incomplete"
    assert (await server.post("/v1/responses", ASK, **keyed("k"))).json["id"] == turn.id


async def test_of_one_that_ended_long_ago_there_is_the_whole(serve):
    async with serve(hub={"replay_seconds": 0.0}) as server:
        first = await server.post("/v1/responses", ASK, **keyed("k"))
        assert (await server.post("/v1/responses", ASK, **keyed("k"))).json == first.json
        streamed = await server.post("/v1/responses", {**ASK, "stream": True}, **keyed("k"))
        assert streamed.refusal == (410, "response_events_expired", "response_id")
        async with server.socket() as socket:
            await socket.create("Hello", idempotency_key="k")
            error = (await socket.rest())[-1]
            assert error["error"]["code"] == "response_events_expired"
            assert first.json["id"] in error["error"]["message"]


async def test_the_same_key_with_something_else_is_a_conflict(server):
    first = await server.post("/v1/responses", ASK, **keyed("k"))
    other = await server.post("/v1/responses", {**ASK, "input": "Something else"}, **keyed("k"))
    assert other.refusal == (409, "idempotency_conflict", None)
    assert first.json["id"] in other.error["message"]


async def test_what_is_not_stored_has_no_key(server):
    told = [await server.post("/v1/responses", {**ASK, "store": False}, **keyed("k")) for _ in range(2)]
    assert told[0].json["id"] != told[1].json["id"]
    assert any("key" in warning for warning in told[0].json["chatpager"]["warnings"])


@pytest.mark.parametrize("key", ["", "x" * 256, 7, "a\nb"])
async def test_what_is_no_key(server, key):
    async with server.socket() as socket:
        await socket.create("Hello", idempotency_key=key)
        error = await socket.receive()
        assert (error["error"]["code"], error["error"]["param"]) == ("invalid_request", "idempotency_key")
