"""Readers that do not read: they are cut off, and nobody else is held up."""

import asyncio
import json

import pytest

from chatpager.server.websocket import CONNECTIONS
from tests.server.stalling import UPGRADE, masked, small_buffers, stalled
from tests.serving import eventually

BULK = {str(i): "😀" * 512 for i in range(16)}
"""Metadata of 32 KiB, which comes back in every response object."""
CHATTER = "the quick brown fox jumps over the lazy dog; " * 4


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
