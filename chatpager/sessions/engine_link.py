"""One life of an engine's process, as its server sees it: started, talked to, and buried."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

from chatpager.sessions.engine_frames import MARKS, Unframed, Up, framed, packed, up


class Program(NamedTuple):
    """``arguments`` start it, behind which come those of ``engine_child.live``; ``settings`` is its first frame. Its
    ``environment`` is the server's and more."""

    arguments: Sequence[str]
    settings: bytes
    environment: Mapping[str, str] = {}

    def link(self, hear: Callable[[Up], None], lost: Callable[[int], None]) -> Link:
        return Link(self, hear, lost)


class Link(asyncio.Protocol):
    """``hear`` is called with what the process tells, ``lost`` when it has ended with its exit code, below 0 for a
    signal; both on the loop."""

    def __init__(self, program: Program, hear: Callable[[Up], None], lost: Callable[[int], None]) -> None:
        self._program = program
        self._hear, self._lost = hear, lost
        self._unframed = Unframed()
        self._transport: asyncio.WriteTransport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._cell: memoryview | None = None
        self._sent = 0
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """When the process has been buried, and ``lost`` called."""

    async def open(self) -> None:
        """Raises OSError: the process cannot be started."""
        ours = self._start(self._program)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, ours)
        except BaseException as error:
            ours.close()
            if self._transport is None:
                self.connection_lost(error if isinstance(error, Exception) else None)
            raise
        self._write(framed(self._program.settings))

    def _start(self, program: Program) -> socket.socket:
        """Our end of the line."""
        with ExitStack() as theirs:
            ours, line = socket.socketpair()
            theirs.callback(line.close)
            on_failure = theirs.enter_context(ExitStack())
            on_failure.callback(ours.close)
            marks = os.memfd_create("chatpager-steps")
            theirs.callback(os.close, marks)
            os.ftruncate(marks, MARKS)
            self._cell = memoryview(mmap.mmap(marks, MARKS)).cast("q")
            self._process = subprocess.Popen(  # noqa: S603
                [*program.arguments, str(line.fileno()), str(marks), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **program.environment},
                pass_fds=(line.fileno(), marks),
                start_new_session=True,  # a terminal's Ctrl+C is the server's to answer
            )
            on_failure.pop_all()
        return ours

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def step(self) -> int | None:
        """Number of the step or command that is running; below 0 where none is, and messages were sent that are not
        taken. Any thread may ask."""
        cell = self._cell
        if cell is None:
            return None
        step, taken = cell
        return step or (-1 - taken if taken < self._sent else None)

    def send(self, message: Any) -> None:
        """A process that has ended reads nothing: its end is told."""
        self._write(packed(message))

    def kill(self) -> None:
        """From any thread."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it at once: it reads nothing before its model is loaded."""
        self.kill()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            self._sent += 1

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(high=1 << 30)  # commands are few, and nobody waits for them

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for body in self._unframed.feed(data):
            loop.call_soon(self._hear, up(body))  # raised in here, a mistake of who hears would close the line

    def connection_lost(self, error: Exception | None) -> None:
        self._burying = asyncio.get_running_loop().create_task(self._bury())

    async def _bury(self) -> None:
        """It lets its end of the socket go as it ends; whatever it still does is over now."""
        assert self._process is not None
        self._process.kill()
        waiting = ThreadPoolExecutor(1, thread_name_prefix="chatpager-burying")
        try:  # one that a driver holds takes its time, and the loop's own threads are for what is short
            code = await asyncio.get_running_loop().run_in_executor(waiting, self._process.wait)
        finally:
            waiting.shutdown(wait=False)
        self._cell = None
        self._lost(code)
        self.gone.set_result(None)
