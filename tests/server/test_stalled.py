"""Readers that do not read: they are cut off, and nobody else is held up."""

import asyncio
import fcntl
import json
import termios
from socket import SO_SNDBUF, SOL_SOCKET

import pytest
from structlog.testing import capture_logs

from chatpager.server import connections
from chatpager.server.websocket import CONNECTIONS
from tests.server.stalling import UPGRADE, count_steps, masked, small_buffers, stalled
from tests.serving import eventually

BULK = {str(i): "😀" * 512 for i in range(16)}
"""Metadata of 32 KiB, which comes back in every response object."""
CHATTER = "the quick brown fox jumps over the lazy dog; " * 4


def streamed():
    body = json.dumps({"input": "a", "stream": True, "metadata": BULK}).encode()
    return f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def trickle(client):
    """Some bytes a second, of megabytes."""
    for _ in range(10_000):
        await asyncio.get_running_loop().sock_recv(client, 1)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("slowly", [False, True])
async def test_a_socket_that_does_not_read_is_cut_while_its_neighbour_goes_on(serve, slowly):
    async with serve(lambda prompt: CHATTER) as server:
        small_buffers(server)
        server.service.send_seconds = 0.3
        frame = {"type": "response.create", "input": "a", "metadata": BULK}
        client = await stalled(server, UPGRADE + masked(frame) * 30)
        reading = asyncio.ensure_future(trickle(client) if slowly else asyncio.sleep(0))
        try:
            await eventually(lambda: len(server.app[CONNECTIONS]) == 1)
            async with server.socket() as neighbour:
                await neighbour.create("Hello", max_output_tokens=100)
                frames = await neighbour.rest()
                assert frames[-1]["response"]["status"] in ("completed", "incomplete")
            await eventually(lambda: not server.app[CONNECTIONS])
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            client.close()
        await eventually(lambda: not server.hub.turns)


MOST_UNREAD = 512 << 10
"""Bytes of the server's for one that does not read: the kernel's for them, and the transport's before them."""


def unread(connection):
    """Bytes that wait for a client: in the process and in the kernel."""
    pipe = connection._ws._pipe
    in_the_kernel = fcntl.ioctl(pipe.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return pipe.get_write_buffer_size(), int.from_bytes(in_the_kernel, "little")


async def test_readers_that_do_not_read_cost_little_memory_and_their_neighbours_no_time(serve, monkeypatch):
    async with serve(lambda prompt: CHATTER) as server, server.socket() as neighbour:
        small_buffers(server)
        server.service.send_seconds = 1000.0  # they are never cut
        others, [neighbours] = asyncio.all_tasks(), server.app[CONNECTIONS]
        frame = {"type": "response.create", "input": "a", "metadata": BULK, "max_output_tokens": 1}
        clients = [await stalled(server, UPGRADE + masked(frame) * 6) for _ in range(8)]

        def stalls():
            return [one for one in server.app[CONNECTIONS] - {neighbours} if one._sending.locked()]

        await eventually(lambda: len(stalls()) == len(clients) and not server.hub.turns)
        waiting = [unread(connection) for connection in stalls()]
        assert all(in_us > 0 and in_us + in_kernel <= MOST_UNREAD for in_us, in_kernel in waiting), waiting
        steps = count_steps(monkeypatch, asyncio.all_tasks() - others)
        await neighbour.create("Hello", max_output_tokens=100)
        assert (await neighbour.rest())[-1]["response"]["status"] in ("completed", "incomplete")
        assert (len(stalls()), len(steps)) == (len(clients), 0)

        pipes = [connection.transport for connection in server.runner.server.connections]
        kept = {pipe.get_extra_info("socket").getsockopt(SOL_SOCKET, SO_SNDBUF) for pipe in pipes}
        assert kept == {2 * connections.UNREAD_BYTES}, "whatever they speak"
        monkeypatch.setattr(connections, "UNREAD_BYTES", 2048)
        clients.append(await stalled(server, streamed()))
        await eventually(lambda: len(server.runner.server.connections) == len(clients) + 1 and not server.hub.turns)
        with capture_logs() as said:
            for client in clients:
                client.close()
            await eventually(lambda: server.app[CONNECTIONS] == {neighbours})
            await eventually(lambda: len(server.runner.server.connections) == 1)
        assert steps, "to leave is something to do"
        assert [line for line in said if line["log_level"] == "error"] == [], "and no mistake of ours"


async def test_an_event_stream_that_is_not_read_is_cut_and_its_answer_kept(serve, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_BYTES", 2048)
    async with serve(lambda prompt: CHATTER) as server:
        server.service.send_seconds = 0.3
        client = await stalled(server, streamed())
        try:
            turn = await server.live_turn()
            await server.turn_ended(turn)
            await eventually(lambda: not server.runner.server.connections)
        finally:
            client.close()
        assert (await server.get("/v1/responses/" + turn.id)).json["output"][0]["content"][0]["text"] == CHATTER
