"""What a socket is promised beside its responses: how long it lives, how soon it hears, and what it is told."""

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from tests.serving import GREEDY, eventually

LONG = {**GREEDY, "max_output_tokens": 40}


async def test_a_socket_that_is_too_old_is_told_and_closed_and_its_response_goes_on(serve, monkeypatch):
    loop = asyncio.get_running_loop()
    call_later, due = loop.call_later, []
    monkeypatch.setattr(loop, "call_later", lambda *timer: (due.append(timer), call_later(*timer))[1])
    async with serve(ws_max_age=1234.5) as server:
        server.gate.hold(after=3)
        async with server.socket() as socket:
            await socket.create("Hello", **LONG)
            turn = await server.live_turn()
            assert (await socket.receive())["type"] == "response.created"  # or nobody could come back to it
            [grows_old] = [callback for seconds, callback, *_ in due if seconds == 1234.5]
            grows_old()
            *_, error = await socket.rest()
            assert (error["status"], error["error"]["code"]) == (400, "websocket_connection_limit_reached")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.receive()
            assert closed.value.rcvd.code == 1001
        server.gate.open()
        assert (await server.turn_ended(turn)).status == "incomplete"
        async with server.socket(query=f"?response_id={turn.id}&starting_after=1") as socket:
            assert (await socket.rest())[-1]["response"]["id"] == turn.id


async def test_a_socket_that_is_left_in_time_is_just_closed(serve):
    async with serve(ws_max_age=60.0) as server:
        async with server.socket() as socket:
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"
        await eventually(lambda: not server.service.metrics.sockets._value.get())


async def test_what_is_not_known_of_a_create_is_named(server):
    async with server.socket() as socket:
        await socket.create("Hello", colour="red", stream=True, background=True, stream_id="one")
        created, *_, last = await socket.rest()
    for told in (created, last):
        assert told["response"]["chatpager"]["warnings"] == ["unknown field 'colour' was passed over"]


async def test_it_is_created_before_anything_is_computed(server):
    server.gate.hold()
    async with server.socket() as socket:
        for lane in map(str, range(8)):
            await socket.create("word " * 40, stream_id=lane)
            created = await socket.until("response.created")
            assert created[-1]["stream_id"] == lane
        assert [turn.token_ids for turn in server.hub.turns.values()] == [[]] * 8
        server.gate.open()


async def test_a_ping_comes_back_while_the_engine_computes(server):
    server.gate.hold()
    async with server.socket(extended=True) as socket:
        await socket.create("Hello")
        await server.live_turn()
        await socket.send(type="chatpager.ping", t=12.5)
        assert (await socket.until("chatpager.pong"))[-1] == {"type": "chatpager.pong", "t": 12.5}
        server.gate.open()
        await socket.rest()
