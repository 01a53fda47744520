"""Many sockets on which nobody speaks: what each costs the server. ``CHATPAGER_IDLE_SOCKETS=10000`` for many
more, and ``CHATPAGER_IDLE_SECONDS=120`` for longer."""

import asyncio
import os
import re
import resource
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import serving, spawn
from tests.server.stalling import UPGRADE
from tests.serving import eventually

SOCKETS = int(os.environ.get("CHATPAGER_IDLE_SOCKETS", "1000"))
HELD_SECONDS = float(os.environ.get("CHATPAGER_IDLE_SECONDS", "1"))
WARM = 200
"""Sockets before those that are counted: what the first ones make is there once."""
MOST_BYTES = 24 << 10
MOST_OF_A_CORE = 0.1
MOST_GROWN = 1 << 20
"""Bytes of the server's while nobody says anything."""
AT_ONCE = 64
PONG = b"\x8a\x80\0\0\0\0"


def memory(pid):
    """Bytes of a process in memory."""
    held = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(held[1]) << 10


def cpu_seconds(pid):
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def open_at(server):
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        return float(re.search(r"^chatpager_ws_connections (\S+)$", answer.read().decode(), re.MULTILINE)[1])


async def answering(reader, writer):
    """To whatever comes, which is a ping now and then."""
    with suppress(ConnectionError):
        while await reader.read(64):
            writer.write(PONG)


async def opened(port, count, answers):
    """Sockets' writers; ``answers`` are the tasks that answer on them."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one():
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(UPGRADE)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            answers.append(asyncio.ensure_future(answering(reader, writer)))
            return writer

    return await asyncio.gather(*(one() for _ in range(count)))


async def half_a_head(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(UPGRADE[:30])
    return writer


@pytest.mark.timeout(1800)
async def test_a_socket_on_which_nobody_speaks_costs_little(tmp_path):
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files < 2 * SOCKETS + WARM + 100:
        pytest.skip(f"NOT TESTED: {files} files may be open here, {2 * SOCKETS} sockets are wanted")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    flags = ("--max-sockets", str(2 * (SOCKETS + WARM)))
    with serving(spawn, tmp_path, *flags) as server:
        port, pid = int(server.url.rpartition(":")[2]), server.process.pid
        answers = []
        clients = await opened(port, WARM, answers)
        before = memory(pid)
        clients += await opened(port, SOCKETS, answers)
        assert open_at(server) == WARM + SOCKETS
        held = memory(pid)
        each = (held - before) / SOCKETS
        start, spent = asyncio.get_running_loop().time(), cpu_seconds(pid)
        await asyncio.sleep(HELD_SECONDS)
        grown = memory(pid) - held
        share = (cpu_seconds(pid) - spent) / (asyncio.get_running_loop().time() - start)
        print(f"{SOCKETS} idle sockets: {each / 1024:.1f} KiB each, {share:.1%} of a core")
        print(f"{grown >> 10} KiB more after {HELD_SECONDS:g} s")
        clients += [await half_a_head(port) for _ in range(SOCKETS)]
        before_it = asyncio.get_running_loop().time()
        assert open_at(server) == WARM + SOCKETS
        waited = asyncio.get_running_loop().time() - before_it
        for writer in clients:
            writer.transport.abort()
        await eventually(lambda: open_at(server) == 0)
        await asyncio.gather(*answers)
    assert grown <= MOST_GROWN
    assert each <= MOST_BYTES
    assert waited < 10.0, "who sends a whole request waits for none of those who do not"
    if HELD_SECONDS > 10:  # a second is too short to tell what an idle server does from what it did before
        assert share <= MOST_OF_A_CORE
