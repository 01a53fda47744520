"""What ``bench chaos`` does to a server, one fault a round."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

KILL_PLACES = {  # where a server kills itself, and the latest hit at which it does
    "store.begin_turn.before_commit": 3,
    "store.begin_turn.after_commit": 3,
    "store.journal.before_commit": 40,
    "store.journal.after_commit": 40,
    "store.finish_turn.before_commit": 3,
    "store.finish_turn.after_commit": 3,
    "sessions.before_terminal_event": 3,
}
MID_STREAM = "in the middle of the stream"
WRITES = ("store.begin_turn.before_commit", "store.journal.before_commit", "store.finish_turn.before_commit")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what is not sent yet is lost


class Fault(NamedTuple):
    """``failpoints`` are those of the server's start; ``strike`` is awaited while clients talk, once one was shown
    something. ``deadly``: the server ends with it. ``cuts``: clients reach the server through a proxy that cuts them
    off."""

    about: str
    failpoints: Callable[[random.Random], str] = lambda rng: ""
    strike: Callable[[subprocess.Popen[bytes], random.Random], Awaitable[None]] | None = None
    deadly: bool = False
    cuts: bool = False


def kill_spec(place: str, rng: random.Random) -> str:
    """Failpoints that kill a server at ``place``; none in the middle of the stream, where somebody else does."""
    return "" if place == MID_STREAM else f"{place}=kill@{rng.randint(1, KILL_PLACES[place])}"


def _kill_spec(rng: random.Random) -> str:
    return kill_spec(rng.choice([*KILL_PLACES, MID_STREAM]), rng)


async def _kill(process: subprocess.Popen[bytes], rng: random.Random) -> None:
    """At the latest: a failpoint may have been faster."""
    await asyncio.sleep(rng.uniform(0.2, 2.0))
    process.kill()


async def _stop(process: subprocess.Popen[bytes], rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.1, 0.6))
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.uniform(0.3, 2.0))
    finally:
        process.send_signal(signal.SIGCONT)


def _database(action: str) -> Callable[[random.Random], str]:
    def spec(rng: random.Random) -> str:
        return ",".join(f"{place}={action}@{rng.randint(5, 30)}x{rng.randint(1, 6)}" for place in WRITES)

    return spec


FAULTS = {
    "kill": Fault("the server is killed", _kill_spec, _kill, deadly=True),
    "stop": Fault("the server is stopped, and goes on", strike=_stop),
    "full": Fault("the database finds no room, a few times", _database("full")),
    "gone": Fault("the database cannot be opened, a few times", _database("gone")),
    "cut": Fault("connections are reset after any byte", cuts=True),
    "clock": Fault("the clock on the wall jumps by an hour, to and fro", lambda rng: "clock.wall=jump@3"),
}


class Cutter:
    """A TCP proxy. ``cut_in`` is armed by whoever has it; ``cuts`` counts what was cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._left: int | None = None
        self.port = 0
        """Where it listens."""
        self.cuts = 0

    def cut_in(self, size: int) -> None:
        """Reset a client's connection after so many more bytes from the server."""
        self._left = size

    def never(self) -> None:
        self._left = None

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
        sending = asyncio.create_task(self._pass_on(reader, server))
        try:
            while data := await upstream.read(1 << 16):
                if self._left is not None and self._left <= len(data):
                    writer.write(data[: self._left])
                    self._left = None
                    self.cuts += 1
                    await asyncio.sleep(0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()
                    break
                if self._left is not None:
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the client or the server left
        finally:
            sending.cancel()
            for end in (writer, server):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                server.write(data)
                await server.drain()
            server.close()


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[Cutter]:
    """A proxy before the server that listens at ``port``."""
    cutter = Cutter(port)
    listening = await asyncio.start_server(cutter.connected, "127.0.0.1", 0)
    async with listening:
        cutter.port = listening.sockets[0].getsockname()[1]
        yield cutter
