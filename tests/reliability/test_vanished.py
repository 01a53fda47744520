"""A reader that is gone without a word: its socket ends in time, and its turn as it was to end with its reader."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from chatpager.server import responses_socket
from chatpager.server.websocket import CONNECTIONS, PLACES
from tests.gate import DEADLINE
from tests.processes import ROOT
from tests.server.stalling import small_buffers
from tests.serving import GREEDY, eventually

LONG = {**GREEDY, "max_output_tokens": 40}
SECONDS = 0.3


class Wire:
    """Passes bytes on in both directions until it is cut, after which neither end hears anything, nor an end."""

    def __init__(self, port):
        self._port = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends = []

    async def connected(self, reader, writer):
        upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, server]
        await asyncio.gather(self._pass_on(reader, server), self._pass_on(upstream, writer))

    async def _pass_on(self, reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)

    def cut(self):
        self._whole.clear()

    def close(self):
        for end in self._ends:
            end.transport.abort()
        self._whole.set()


@asynccontextmanager
async def wire_to(port):
    wire = Wire(port)
    listening = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
    wire.port = listening.sockets[0].getsockname()[1]
    async with listening:
        try:
            yield wire
        finally:
            wire.close()


@pytest.mark.parametrize(("wish", "status"), [("continue", "incomplete"), ("cancel", "cancelled")])
async def test_a_wire_that_goes_silent(serve, monkeypatch, wish, status):
    monkeypatch.setattr(responses_socket, "HEARTBEAT_SECONDS", SECONDS)
    async with serve() as server, wire_to(server.port) as wire:
        server.gate.hold(after=3)
        address = server.port
        server.port, server.url = wire.port, f"http://127.0.0.1:{wire.port}"
        async with asyncio.timeout(DEADLINE), server.socket() as there:
            await there.create("Hello", **LONG, chatpager={"on_disconnect": wish})
            turn = await server.live_turn()
            await server.held()
            wire.cut()
            await eventually(lambda: not server.app[CONNECTIONS])  # sooner than without our heartbeat
            server.port, server.url = address, f"http://127.0.0.1:{address}"
            server.gate.open()
            assert (await server.turn_ended(turn)).status == status
            assert not server.app[PLACES].taken
            await eventually(lambda: not server.hub.turns)
            assert b"chatpager_ws_connections 0.0" in (await server.get("/metrics")).body
            wire.close()
            with suppress(Exception):
                await there.ws.close()


async def test_what_was_sent_and_not_taken_does_not_keep_the_socket(serve, monkeypatch):
    """The system would send it again for a quarter of an hour, and aiohttp wait for it."""
    monkeypatch.setattr(responses_socket, "HEARTBEAT_SECONDS", SECONDS)
    async with serve(lambda prompt: "the quick brown fox jumps over the lazy dog; " * 8) as server:
        small_buffers(server)
        async with wire_to(server.port) as wire:
            server.port, server.url = wire.port, f"http://127.0.0.1:{wire.port}"
            async with asyncio.timeout(DEADLINE), server.socket() as there:
                await there.send(type="chatpager.nothing")
                await there.receive()
                wire.cut()
                [connection] = server.app[CONNECTIONS]
                transport = connection._ws._req.transport
                transport.write(bytes(1 << 15))  # more than the kernel has room for, and less than holds up a writer
                await eventually(lambda: not server.app[CONNECTIONS])
                await eventually(lambda: not server.runner.server.connections)
                wire.close()
                with suppress(Exception):
                    await there.ws.close()


@pytest.mark.slow
def test_a_network_that_is_taken_away(tmp_path):
    """With the real deadlines, in a network of its own."""
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    missing = [name for name in ("unshare", "ip", "ss") if not shutil.which(name)]
    if missing or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip(f"NOT TESTED without a network: no {', '.join(missing) or 'namespaces'} here")
    script = Path(__file__).with_name("without_network.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*alone, sys.executable, script, tmp_path], capture_output=True, text=True, env=env, timeout=300
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
