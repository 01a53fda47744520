"""The engine's side where it is a process of its own: one thread that steps, and a socket that it looks at in between.

It never waits for its server: what the socket does not take at once goes with the next look.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from chatpager.engine.engine import Engine
from chatpager.engine.facts import facts_of
from chatpager.engine.grammar_probe import deep_stacks
from chatpager.engine.servant import Answered, Asked, Handed, Servant, Stepped, Told
from chatpager.sessions.engine_frames import (
    MARKS,
    Asking,
    Died,
    End,
    Erasing,
    NotStarted,
    Refusal,
    Started,
    Unframed,
    down,
    fault_of,
    packed,
    reply,
)
from chatpager.sessions.mistakes import log_mistake, told_of

READ_BYTES = 1 << 18
PR_SET_PDEATHSIG = 1


def live(build: Callable[[bytes], Engine], arguments: list[str]) -> None:
    """Serve the engine that ``build`` makes of the first frame, until the server says so or is gone. ``arguments``: the
    numbers of a socket and of a file of ``MARKS`` bytes, which tell what was done, and the server's process id."""
    line, file, server = map(int, arguments)
    _live_no_longer_than(server)
    with deep_stacks():
        marks = Marks(file)
        thread = threading.Thread(target=_live, args=(build, Line(line, marks.took), marks), name="chatpager-engine")
        thread.start()
    thread.join()


def _live_no_longer_than(server: int) -> None:
    """Ctrl+C and SIGTERM are for the server, which lets answers end first; without it nobody would hear of them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with suppress(AttributeError):  # where the C library has none the end of the socket does
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it had ended before that
        os._exit(1)


def _live(build: Callable[[bytes], Engine], line: Line, mark: Marks) -> None:
    try:
        engine = build(line.first())
    except Exception as error:
        line.put(NotStarted(fault_of(error)))
        line.close()
        return
    line.put(Started(facts_of(engine)))
    try:
        Servant(engine, line, line.tell, mark).serve()
    except Exception as error:
        line.put(Died(told_of(error)))
    try:
        engine.close()
    except Exception as error:
        log_mistake("engine.not_closed", error)
    line.close()


class Marks:
    """What the server sees: the number of what the engine does (``Servant``), else 0, and how many messages were
    taken."""

    def __init__(self, file: int) -> None:
        self._cell = memoryview(mmap.mmap(file, MARKS)).cast("q")
        os.close(file)

    def __call__(self, number: int) -> None:
        self._cell[0] = number

    def took(self) -> None:
        self._cell[1] += 1


class Line:
    """An ``Inbox`` whose sender is the server. A line that has broken says that the engine shall end. ``took`` is
    called for each message that is taken."""

    def __init__(self, socket: int, took: Callable[[], object] = lambda: None) -> None:
        os.set_blocking(socket, False)
        os.set_inheritable(socket, False)  # a compiler that is at work would keep it open behind the engine's end
        self._socket = socket
        self._unframed = Unframed()
        self._come: deque[bytes] = deque()
        self._going = bytearray()
        self._broken = False
        self._took = took
        self._erasing: int | None = None
        """Its number; it is carried out by when the next message is asked for."""
        self._poll = select.poll()

    def first(self) -> bytes:
        """What the engine is made of. Raises EOFError: the server has gone."""
        if (body := self._next(None)) is None:
            raise EOFError("the server has gone")
        return body

    def get(self, *, timeout: float | None) -> Handed | None:
        if self._erasing is not None:
            self.put(reply(self._erasing, None))
            self._erasing = None
        body = self._next(timeout)
        match down(body) if body is not None else End():
            case End():
                return None
            case Asking(number, question):
                return Asked(number, question)
            case Erasing(number, command):
                self._erasing = number
                return command
            case command:
                return command

    def tell(self, told: Told) -> None:
        match told:
            case Stepped():
                self.put(told)
            case Answered():
                self.put(reply(told.number, told.answer))
            case _:
                self.put(Refusal(told.number, fault_of(told.error)))

    def put(self, message: Any) -> None:
        self._going += packed(message)
        self._write()

    def close(self) -> None:
        """What is still to be told is waited for."""
        while self._going and not self._broken:
            self._look(None, select.POLLOUT)
        os.close(self._socket)

    def _next(self, seconds: float | None) -> bytes | None:
        """None: the line is broken. Raises queue.Empty: nothing came for so long, if not None."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._come and not self._broken:
            left = None if until is None else max(0.0, until - time.monotonic())
            self._look(left, select.POLLIN)
            if not self._come and not self._broken and until is not None and time.monotonic() >= until:
                raise queue.Empty
        if not self._come:
            return None
        self._took()
        return self._come.popleft()

    def _look(self, seconds: float | None, events: int) -> None:
        """Read and write what can be; wait for as long for something of that."""
        self._poll.register(self._socket, events | (select.POLLOUT if self._going else 0))
        for _, found in self._poll.poll(None if seconds is None else seconds * 1000):
            if found & select.POLLOUT:
                self._write()
            if found & ~select.POLLOUT:
                self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._socket, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._broken = not data
        self._come.extend(self._unframed.feed(data))

    def _write(self) -> None:
        while self._going and not self._broken:
            try:
                del self._going[: os.write(self._socket, self._going)]
            except BlockingIOError:
                return
            except OSError:
                self._broken = True
