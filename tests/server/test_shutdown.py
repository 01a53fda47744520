"""A server that goes: running turns have time to end, and every client hears what became of its own."""

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from chatpager.server.app import drain
from chatpager.server.websocket import CONNECTIONS
from tests.server.stalling import UPGRADE, stalled
from tests.serving import GREEDY, eventually

LONG = {**GREEDY, "max_output_tokens": 300}


async def test_a_drain_lets_running_turns_end_and_refuses_new_ones(server):
    server.gate.hold(after=2)
    async with server.socket() as socket:
        await socket.create("Hello")
        await server.held()
        closing = asyncio.ensure_future(server.close())
        await eventually(lambda: server.service.draining)
        await socket.create("And then?")
        server.service.stats_seconds = 0.05
        health = await server.get("/health/ready")
        assert (health.status, health.json["status"]) == (503, "draining")
        refused = await server.post("/v1/responses", {"input": "a"})
        assert refused.refusal == (503, "server_is_overloaded", None)
        server.gate.open()
        assert (await socket.rest())[-1]["response"]["status"] == "incomplete"
        error = await socket.receive()
        assert (error["status"], error["error"]["code"]) == (503, "server_is_overloaded")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.rcvd.code == 1012
        await closing


async def test_a_shutdown_waits_for_the_drain_that_an_admin_began(server):
    server.gate.hold(after=2)
    async with server.socket() as socket:
        await socket.create("Hello")
        await server.held()
        assert (await server.post("/v1/admin/drain")).status == 200
        ending = asyncio.ensure_future(drain(server.app))
        server.service.stats_seconds = 0.05
        assert (await server.get("/health/ready")).json["status"] == "draining"
        assert not ending.done()
        server.gate.open()
        assert (await socket.rest())[-1]["response"]["status"] == "incomplete"
        await ending
    entries, _ = await server.service.store.audit.page(limit=20, before=None)
    assert [entry.action for entry in entries] == ["server.drained"]


async def test_what_a_drain_has_no_time_for_is_interrupted_and_kept(serve):
    async with serve(drain_seconds=0.05) as server:
        server.gate.hold(after=4)
        async with server.socket() as socket, server.events("/v1/responses", {"input": "Hello", **LONG}) as events:
            await socket.create("Hello there", **LONG)
            await eventually(lambda: len(server.hub.turns) == 2)
            await server.held()
            closing = asyncio.ensure_future(server.close())
            await eventually(lambda: not server.hub.engine._commands.empty())
            server.gate.open()
            streamed = [data async for _, data in events][-1]
            last = (await socket.rest())[-1]
            await closing
    for told in (streamed, last):
        assert (told["type"], told["response"]["error"]["code"]) == ("response.failed", "server_restarted")
    async with serve() as server:
        kept = (await server.get("/v1/responses/" + last["response"]["id"])).json
        assert kept == last["response"]
        after = await server.respond("And then?", previous_response_id=kept["id"])
        assert after["status"] == "incomplete"


async def test_a_client_is_heard_while_the_server_drains(server):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", **LONG)
        created = await socket.receive()
        await server.held()
        closing = asyncio.ensure_future(server.close())
        await eventually(lambda: server.service.draining)
        await socket.send(type="response.cancel", response_id=created["response"]["id"])
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        assert (await socket.rest())[-1]["response"]["status"] == "cancelled"
        await closing


async def test_aiohttp_s_own_shutdown_drains_too(server):
    server.gate.hold(after=2)
    async with server.socket() as socket:
        await socket.create("Hello")
        await server.held()
        closing = asyncio.ensure_future(server.runner.cleanup())
        await eventually(lambda: server.service.draining)
        server.gate.open()
        assert (await socket.rest())[-1]["response"]["status"] == "incomplete"
        await closing


async def test_a_client_that_does_not_answer_the_close_does_not_hold_up_the_others(server):
    """All are being closed before one of them is, and then they are given up."""
    clients = []
    for seconds in (1000.0, 1000.0, 0.05):
        server.service.close_seconds = seconds
        clients.append(await stalled(server, UPGRADE))
        await eventually(lambda: len(server.app[CONNECTIONS]) == len(clients))
    connections = list(server.app[CONNECTIONS])
    closing = asyncio.ensure_future(server.close())
    try:
        await eventually(lambda: all(connection._ws.closed for connection in connections))
        assert not closing.done()
        for client in clients[:2]:
            client.close()
        await closing
    finally:
        for client in clients:
            client.close()
