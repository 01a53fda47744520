"""The near side of an engine's process: a line to its server that never makes it wait, and an end with that."""

import queue
import signal
import socket
import subprocess
import sys

import pytest

from chatpager.engine.messages import CancelRequest, CloseSession, StepOutput
from chatpager.engine.questions import StatsWanted
from chatpager.engine.servant import Asked, Refused, Stepped
from chatpager.errors import EngineError
from chatpager.sessions.engine_child import Line
from chatpager.sessions.engine_frames import (
    Asking,
    End,
    Erasing,
    Refusal,
    Reply,
    Unframed,
    error_of,
    framed,
    packed,
    up,
)
from tests.gate import DEADLINE
from tests.processes import ROOT, clean_env


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    line = Line(theirs.detach())
    with ours:
        yield ours, line
    line.close()


def told(ours, count):
    """The next ``count`` frames."""
    unframed, found = Unframed(), []
    while len(found) < count:
        found += map(up, unframed.feed(ours.recv(1 << 20)))
    return found


def test_what_comes_in_pieces_is_whole_and_in_order(ends):
    ours, line = ends
    frames = framed(b"settings") + packed(CancelRequest("a")) + packed(Asking(7, StatsWanted())) + packed(End())
    for i in range(0, len(frames) - 3, 3):
        ours.send(frames[i : i + 3])
    assert line.first() == b"settings"
    assert line.get(timeout=0.0) == CancelRequest("a")
    assert line.get(timeout=None) == Asked(7, StatsWanted())
    with pytest.raises(queue.Empty):
        line.get(timeout=0.001)
    ours.send(frames[i + 3 :])
    assert line.get(timeout=None) is None


def test_a_deletion_is_confirmed_once_it_has_been_carried_out(ends):
    ours, line = ends
    ours.send(packed(Erasing(5, CloseSession("s"))) + packed(CancelRequest("a")))
    assert line.get(timeout=None) == CloseSession("s")
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    assert line.get(timeout=None) == CancelRequest("a")
    [reply] = told(ours, 1)
    assert isinstance(reply, Reply) and reply.number == 5


def test_a_server_that_does_not_read_holds_nothing_up_and_misses_nothing(ends):
    ours, line = ends
    for i in range(50):
        line.tell(Stepped([StepOutput(request_id="a", token_ids=[i] * 10_000)], []))
    assert line._going
    line.tell(Refused(3, ZeroDivisionError("what somebody said")))
    ours.send(packed(CancelRequest("a")))
    assert line.get(timeout=None) == CancelRequest("a")
    found = []
    unframed = Unframed()
    while len(found) < 51:
        found += map(up, unframed.feed(ours.recv(1 << 20)))
        with pytest.raises(queue.Empty):
            line.get(timeout=0.0)
    assert [step.outputs[0].token_ids[0] for step in found[:50]] == list(range(50))
    assert isinstance(found[50], Refusal)
    error = error_of(found[50].fault)
    assert type(error) is EngineError and "ZeroDivisionError" in str(error) and "somebody" not in str(error)


def test_a_line_that_breaks_is_the_end(ends):
    ours, line = ends
    ours.send(packed(CancelRequest("a")))
    ours.close()
    assert line.get(timeout=None) == CancelRequest("a")
    assert line.get(timeout=None) is None
    line.tell(Stepped([], []))
    with pytest.raises(EOFError):
        line.first()


def test_what_the_engine_starts_does_not_keep_the_line_open():
    """Triton starts its compilers with all that may be inherited, as this line was from the server."""
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    line = Line(theirs.detach())
    with ours, subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as compiler:
        line.close()
        ours.setblocking(False)
        assert ours.recv(1) == b""
        compiler.stdin.close()


KILLED = """
import asyncio, os, signal, sys
from tests.engine.fakes import request
from tests.sessions.test_engine_host import Home

async def main():
    home = Home("process", sys.argv[1])
    await home.host.start()
    home.host.send(request("a", (1, 2, 3), 9))
    await home.in_step(1)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_server_that_is_killed_takes_its_engine_along_in_the_middle_of_a_step(tmp_path):
    """They have its streams in common, which end with the last who has them."""
    script = [sys.executable, "-c", KILLED, str(tmp_path / "steps")]
    server = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=clean_env(tmp_path), timeout=DEADLINE)
    assert server.returncode == -signal.SIGKILL, server.stderr
