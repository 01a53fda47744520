"""Clients of the benches before servers that do what the benches look for: say nothing, leave, and keep sockets."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress

import pytest

from chatpager.bench import oracle
from chatpager.bench.chaos import _Client
from chatpager.bench.exposition import parse
from chatpager.bench.faults import FAULTS
from chatpager.bench.load_scenarios import Stage
from chatpager.bench.plain_socket import PlainSocket, SocketLost
from chatpager.bench.talkers import Talker, leave
from chatpager.bench.transcript import Transcript
from chatpager.errors import ChatpagerError

OPEN = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes, *, leaving: bool = False):
    """The port of a server that answers a connection with ``answer`` and says no more."""

    connections = []

    async def connected(reader, writer):
        connections.append(asyncio.current_task())
        with suppress(ConnectionError, EOFError):  # the client left
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if not leaving:
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*connections)


@pytest.fixture
def transcript(tmp_path):
    with Transcript(tmp_path / "heard.jsonl") as transcript:
        yield transcript


class Counting(Stage):
    """Of a server with so many sockets."""

    count = 7

    async def look(self):
        return parse(f"chatpager_ws_connections {self.count}\n")


@pytest.fixture
def stage(transcript):
    return Counting("http://127.0.0.1:1", {}, None, transcript, random.Random(1), patience=0.05)


async def test_who_asks_on_a_socket_that_was_lost_is_told_at_once(transcript):
    talker = Talker(0, transcript)
    async with answering(OPEN, leaving=True) as port:
        await talker.connect(f"ws://127.0.0.1:{port}/")
        await talker.socket.closed
        with pytest.raises(SocketLost, match="already"):
            talker.ask(input="Hello")


async def test_a_client_that_is_told_no_end_reports_it_and_leaves(transcript):
    async with answering(OPEN) as port:
        client = _Client(0, transcript, f"http://127.0.0.1:{port}", FAULTS["stop"], random.Random(1), None)
        await client.talk(time.monotonic(), patience=0.05)
    [fault] = client.faults
    assert "no end within 0.05 s" in fault


async def test_a_client_that_finds_no_open_socket_reports_it_too(transcript):
    async with answering(b"") as port:
        client = _Client(0, transcript, f"http://127.0.0.1:{port}", FAULTS["stop"], random.Random(1), None)
        await client.talk(time.monotonic(), patience=0.05)
    [fault] = client.faults
    assert "no end within 0.05 s" in fault


async def test_sockets_of_others_do_not_count_and_those_that_do_not_go_are_not_waited_for_for_ever(stage):
    stage.others = 5.0
    await stage.settled(2)
    with pytest.raises(ChatpagerError, match="2 sockets of ours where 0 are due"):
        await stage.settled(0)


async def test_what_does_not_come_is_a_fault_and_the_rest_goes_on(stage, transcript):
    talker = Talker(0, transcript)
    async with answering(OPEN) as port:
        await talker.connect(f"ws://127.0.0.1:{port}/")
        there = asyncio.get_running_loop().create_future()
        there.set_result("there")
        assert await stage.outcome([there, talker.ask(input="Hello")], [talker], "ends") == ["there"]
        assert stage.faults == ["1 of 2 ends did not come"]
        end = talker.ask(input="Hello")
        await leave([talker])
        assert await stage.outcome([end], [talker], "ends") == []
    assert "1 of 1 ends: the connection ended" in stage.faults[1]


async def test_a_port_may_be_left_out_and_what_is_encrypted_is_not_spoken_in_clear():
    with pytest.raises(SocketLost):
        await PlainSocket.connect("ws://127.0.0.1/no-such-path", print)
    with pytest.raises(ValueError, match="only ws://"):
        await PlainSocket.connect("wss://127.0.0.1:1/", print)


@pytest.mark.parametrize(("status", "faults"), [("queued", 1), ("in_progress", 1), ("completed", 0), ("failed", 0)])
def test_after_a_restart_no_response_is_open(status, faults):
    assert len(oracle.unended("resp_1", {"status": status})) == faults
    assert oracle.unended("resp_1", None) == []
