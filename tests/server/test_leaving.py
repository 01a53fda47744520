"""Readers that leave, and what becomes of their turns."""

import asyncio
import gc
import json
import threading
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from weakref import ref

import pytest

from chatpager.server import beginnings
from chatpager.server.websocket import CONNECTIONS
from tests.looking import look
from tests.serving import GREEDY, eventually

LONG = {**GREEDY, "max_output_tokens": 300}


async def settled(server, turn):
    """How a turn ended whose reader has left while the engine stood still."""
    await eventually(lambda: not server.app[CONNECTIONS])
    server.gate.open()
    return (await server.turn_ended(turn)).status


@pytest.mark.parametrize(("stored", "status"), [(True, "incomplete"), (False, "cancelled")])
async def test_a_socket_that_closes(server, stored, status):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", **{**LONG, "max_output_tokens": 40}, store=stored)
        turn = await server.live_turn()
        await server.held()
    assert await settled(server, turn) == status
    assert not server.service.readers.alone, "nothing keeps what has ended"
    again = await server.get("/v1/responses/" + turn.id)
    assert (again.json["status"] == "incomplete") if stored else (again.status == 404)


@pytest.mark.parametrize(("stored", "status"), [(True, "incomplete"), (False, "cancelled")])
async def test_a_socket_that_is_torn_off(server, stored, status):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", **{**LONG, "max_output_tokens": 40}, store=stored)
        turn = await server.live_turn()
        await server.held()
        socket.ws.transport.abort()
        assert await settled(server, turn) == status


async def test_of_a_socket_that_is_torn_off_nothing_is_kept_until_its_next_ping(server):
    async with server.socket() as socket:
        await socket.create("Hello", **LONG)
        await socket.until("response.created")
        [connection] = map(ref, server.app[CONNECTIONS])
        socket.ws.transport.abort()
        await eventually(lambda: not server.app[CONNECTIONS])
    await eventually(lambda: gc.collect() >= 0 and connection() is None)


async def test_creates_that_wait_on_a_socket_that_closes_never_begin(server):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("one")
        await socket.create("two")
        turn = await server.live_turn()
        await server.held()
    await settled(server, turn)
    assert not server.hub.turns
    assert (await server.get("/metrics")).body.count(b'chatpager_turns_total{kind="response",status="incomplete"} 1.0')


async def test_a_create_that_is_left_just_as_it_has_begun_leaves_no_turn_without_a_reader(server, monkeypatch):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", **LONG, chatpager={"on_disconnect": "cancel"})
        request = replace((await server.live_turn()).request, id="resp_other")
        turn = await server.hub.submit(request)

        async def begun(*_, **__):
            return turn

        async def asked():
            return request

        monkeypatch.setattr(beginnings, "begin_once", begun)
        asking = asyncio.ensure_future(beginnings.Beginnings(server.service).begin(asked, None))
        for _ in range(2):  # it has begun, and who asked for it is not told yet
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.gate.open()
        assert (await server.turn_ended(turn)).status == "cancelled"


async def left_http(server, **body):
    """The turn of a client that left while its answer was computed, and what became of it."""
    server.gate.hold(after=3)
    body = json.dumps({"input": "Hello", **LONG, "max_output_tokens": 40, **body}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    turn = await server.live_turn()
    await server.held()
    readers, grace = server.service.readers, server.service.config.detach_grace
    await eventually(lambda: readers._reading[turn.id])
    if b'"stream": true' in body:
        await reader.readuntil(b"response.created")
    writer.transport.abort()
    await eventually(lambda: not readers._reading[turn.id] and (grace or turn.id not in readers.alone))
    server.gate.open()
    return (await server.turn_ended(turn)).status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"stream": True}, "incomplete"),
        ({"stream": True, "store": False}, "cancelled"),
        ({"stream": False}, "cancelled"),
        ({"stream": False, "store": False}, "cancelled"),
    ],
)
async def test_http_readers_that_leave(server, body, status):
    """A stored turn goes on for who can find it again: its reader knows the id once the stream has begun."""
    assert await left_http(server, **body) == status


async def test_a_turn_of_a_conversation_goes_on_without_its_reader(server):
    conversation = await server.conversation()
    assert await left_http(server, conversation=conversation) == "incomplete"
    assert [item["role"] for item in await server.items(conversation)] == ["user", "assistant"]


async def test_a_reader_that_leaves_before_its_turn_has_begun(server):
    """The turn waits for its conversation; when its time comes nobody was told of it, but it is found there."""
    conversation = await server.conversation()
    server.gate.hold(after=2)
    first = asyncio.create_task(server.respond("one", conversation=conversation))
    await server.live_turn()
    async with server.socket() as socket:
        await socket.create("two", conversation=conversation)
        await eventually(lambda: server.hub._admission._places.taken == 2)
    await eventually(lambda: not server.app[CONNECTIONS])
    server.gate.open()
    await first
    await eventually(lambda: not server.hub.turns and not server.hub._admission._places.taken)
    assert [item["role"] for item in await server.items(conversation)] == ["user", "assistant"] * 2


async def test_a_turn_that_waits_is_withdrawn_by_its_lane(server):
    """At once, and nothing is left of it; what comes behind it in the lane has its place."""
    conversation = await server.conversation()
    server.gate.hold(after=2)
    first = asyncio.create_task(server.respond("one", conversation=conversation))
    await server.live_turn()
    async with server.socket() as socket:
        await socket.create("two", conversation=conversation, stream_id="left")
        await eventually(lambda: server.hub._admission._places.taken == 2)
        await socket.create("three", conversation=conversation, stream_id="left")
        await socket.send(type="response.cancel", stream_id="left")
        withdrawn = await socket.receive()
        assert (withdrawn["error"]["code"], withdrawn["stream_id"]) == ("response_cancelled", "left")
        server.gate.open()
        assert (await socket.rest())[-1]["type"] == "response.incomplete"
    await first
    said = [item["content"][0]["text"] for item in await server.items(conversation) if item["role"] == "user"]
    assert said == ["one", "three"]
    assert not server.hub._admission._places.taken


@asynccontextmanager
async def a_turn_that_cannot_begin(server):
    """Its prompt waits for the tokenizer until the block ends."""
    free = threading.Event()
    server.hub.prompting._thread.submit(free.wait, 20)
    try:
        yield
    finally:
        free.set()


@pytest.mark.parametrize("stored", [True, False])
async def test_a_turn_that_nobody_could_find_does_not_run(server, stored):
    async with a_turn_that_cannot_begin(server), server.socket() as socket:
        await socket.create("Hello", **LONG, store=stored)
        await eventually(lambda: server.hub.prompting._thread._work_queue.qsize())
        socket.ws.transport.abort()
        await eventually(lambda: not server.app[CONNECTIONS])
    ended = server.service.metrics._turns.labels("response", "cancelled")._value
    await eventually(lambda: ended.get() == 1)


@pytest.mark.parametrize("place", ["prompt", "rows"])
async def test_a_turn_that_is_cancelled_before_it_has_begun_does_not_outlive_its_socket(server, monkeypatch, place):
    conversation, free, storing = await server.conversation(), asyncio.Event(), asyncio.Event()
    begin_turns = server.service.store.begin_turns

    async def slowly(rows):
        storing.set()
        await free.wait()
        return await begin_turns(rows)

    monkeypatch.setattr(server.service.store, "begin_turns", slowly)
    waits = a_turn_that_cannot_begin(server) if place == "prompt" else nullcontext()
    server.gate.hold()
    async with waits, server.socket() as socket:
        await socket.create("Hello", **LONG, conversation=conversation)
        if place == "rows":
            await storing.wait()
        await socket.send(type="response.cancel", stream_id=None)
        await socket.ws.close()
        await eventually(lambda: not server.app[CONNECTIONS])
    free.set()
    await eventually(lambda: not server.hub._admission._places.taken or not server.hub.engine._commands.empty())
    server.gate.open()
    await eventually(lambda: not server.hub._admission._places.taken)
    said = [item["role"] for item in await server.items(conversation)]
    assert said[:1] == ([] if place == "prompt" else ["user"])
    ended = server.service.metrics._turns.labels("response", "cancelled")._value
    assert ended.get() == (place == "rows")


async def test_a_turn_that_is_refused_when_its_reader_is_gone(server):
    async with a_turn_that_cannot_begin(server), server.socket() as socket:
        await socket.create("word " * 1000)
        await eventually(lambda: server.hub.prompting._thread._work_queue.qsize())
        socket.ws.transport.abort()
        await eventually(lambda: not server.app[CONNECTIONS])
    assert (await server.respond("Hello"))["status"] == "incomplete"
    assert not server.hub.turns


async def test_a_reader_that_leaves_when_the_engine_has_stopped(server):
    server.gate.hold(after=2)
    async with server.socket() as socket:
        await socket.create("Hello", **LONG, store=False)
        turn = await server.live_turn()
        await server.held()
        server.hub.engine._stopped.set()
    await eventually(lambda: not server.app[CONNECTIONS])
    server.hub.engine._stopped.clear()
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "incomplete"


async def test_a_turn_that_goes_on_alone_for_too_long_ends(serve):
    async with serve(detach_grace=0) as server:
        assert await left_http(server, stream=True) == "cancelled"
        conversation = await server.conversation()
        assert await left_http(server, conversation=conversation) == "cancelled"
        assert not server.service.readers.alone


async def test_one_that_was_asked_to_go_on_does_not_end(serve):
    async with serve(detach_grace=0) as server:
        assert await left_http(server, stream=True, chatpager={"on_disconnect": "continue"}) == "incomplete"
        server.gate.hold(after=1)
        made = await server.post("/v1/responses", {"input": "Hello", **GREEDY, "background": True})
        assert await unread(server, await server.live_turn())
        server.gate.open()
        await eventually(lambda: not server.hub.turns)
        assert (await server.get("/v1/responses/" + made.json["id"])).json["status"] == "incomplete"


async def unread(server, turn):
    """Whether the engine, which is held, takes it for a turn that nobody reads."""
    server.gate.hold(after=1)
    return await look(server.hub.engine, lambda engine: engine._requests[turn.request.id].seqs[0].unread)


async def test_who_comes_back_in_time_finds_it_running(server):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", **{**LONG, "max_output_tokens": 40})
        turn = await server.live_turn()
        await server.held()
    alone = server.service.readers.alone
    await eventually(lambda: turn.id in alone)
    assert await unread(server, turn)
    left = alone[turn.id].until.when() - asyncio.get_running_loop().time()
    assert 55 < left <= server.service.config.detach_grace == 60
    async with server.socket(query=f"?response_id={turn.id}") as first, server.socket() as second:
        await eventually(lambda: not alone)
        assert not await unread(server, turn)
        await second.send(type="response.resume", response_id=turn.id)
        await second.receive()
        await first.ws.close()
        await second.ws.ping()
        assert not alone, "somebody reads it"
        server.gate.open()
        assert (await second.rest())[-1]["response"]["status"] == "incomplete"
    assert not alone


async def test_of_two_readers_the_last_one_ends_what_goes_with_its_reader(server):
    server.gate.hold(after=3)
    async with server.socket() as second:
        async with server.socket() as first:
            await first.create("Hello", **{**LONG, "max_output_tokens": 40}, chatpager={"on_disconnect": "cancel"})
            turn = await server.live_turn()
            await server.held()
            await second.send(type="response.resume", response_id=turn.id)
            await second.receive()
        await eventually(lambda: server.service.readers._reading[turn.id] == 1)
        assert turn.stream.ended is None
    assert await settled(server, turn) == "cancelled"
