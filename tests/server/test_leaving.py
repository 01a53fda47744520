"""Readers that leave, or do not read; and a server that goes."""

import asyncio
import json
import socket as sockets

import pytest
from websockets.exceptions import ConnectionClosed

from chatpager.server.websocket import CONNECTIONS
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


async def left_http(server, **body):
    """The turn of a client that left while its answer was computed, and what became of it."""
    server.gate.hold(after=3)
    body = json.dumps({"input": "Hello", **LONG, "max_output_tokens": 40, **body}).encode()
    others = set(server.runner.server.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    turn = await server.live_turn()
    await server.held()
    if b'"stream": true' in body:
        await reader.readuntil(b"response.created")
    writer.transport.abort()
    await eventually(lambda: set(server.runner.server.connections) <= others)
    for _ in range(5):
        await asyncio.sleep(0)  # the handler is cancelled
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
        await eventually(lambda: server.hub._locks.waiting)
    await eventually(lambda: not server.app[CONNECTIONS])
    server.gate.open()
    await first
    await eventually(lambda: not server.hub.turns and not server.hub._locks._locks)
    assert [item["role"] for item in await server.items(conversation)] == ["user", "assistant"] * 2


# -- readers that do not read -----------------------------------------------------------------------------------------

BULK = {str(i): "😀" * 512 for i in range(16)}
"""Metadata of 32 KiB, which comes back in every response object."""
CHATTER = "the quick brown fox jumps over the lazy dog; " * 4


def small_buffers(server):
    """So that a few thousand bytes are more than the client's side takes unread."""
    for site in server.runner.sites:
        for listening in site._server.sockets:
            listening._sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)


async def stalled(server, request):
    """A client that sends and then reads nothing."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, request)
    return raw


UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def masked(frame):
    """A client's text frame with an all-zero mask."""
    data = json.dumps(frame, ensure_ascii=False).encode()
    length = bytes([128 | len(data)]) if len(data) < 126 else bytes([254]) + len(data).to_bytes(2, "big")
    assert len(data) < 1 << 16
    return b"\x81" + length + b"\0\0\0\0" + data


async def test_a_socket_that_does_not_read_is_cut_while_its_neighbour_goes_on(serve):
    async with serve(lambda prompt: CHATTER) as server:
        small_buffers(server)
        server.service.send_seconds = 0.3
        frame = {"type": "response.create", "input": "a", "metadata": BULK}
        client = await stalled(server, UPGRADE + masked(frame) * 30)
        try:
            await eventually(lambda: len(server.app[CONNECTIONS]) == 1)
            async with server.socket() as neighbour:
                await neighbour.create("Hello", max_output_tokens=100)
                frames = await neighbour.rest()
                assert frames[-1]["response"]["status"] in ("completed", "incomplete")
            await eventually(lambda: not server.app[CONNECTIONS])
        finally:
            client.close()
        await eventually(lambda: not server.hub.turns)


async def test_an_event_stream_that_is_not_read_is_cut_and_its_answer_kept(serve):
    async with serve(lambda prompt: CHATTER) as server:
        small_buffers(server)
        server.service.send_seconds = 0.3
        body = json.dumps({"input": "a", "stream": True, "metadata": BULK}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        client = await stalled(server, (head + body))
        try:
            turn = await server.live_turn()
            await server.turn_ended(turn)
            await eventually(lambda: not server.runner.server.connections)
        finally:
            client.close()
        assert (await server.get("/v1/responses/" + turn.id)).json["output"][0]["content"][0]["text"] == CHATTER


# -- the server goes --------------------------------------------------------------------------------------------------


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
    server.service.close_seconds = 0.5
    clients = [await stalled(server, UPGRADE) for _ in range(3)]
    try:
        await eventually(lambda: len(server.app[CONNECTIONS]) == 3)
        began = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - began < 1.4
    finally:
        for client in clients:
            client.close()
