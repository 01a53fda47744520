"""Ctrl+C while a command waits: it ends what is waited for, and breaks no part of the event loop.

``asyncio.Runner`` lets the signal raise KeyboardInterrupt where a loop is being made, and from the second one on
wherever it comes: what was half done then is told as a traceback, or waits for ever.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Waiting:
    """An event loop for what a command waits for, in the main thread. Ctrl+C while nothing is waited for is heard by
    what comes next. A third one that nobody has heard ends the process, and so does any once the command is left."""

    def __enter__(self) -> Self:
        self._task: asyncio.Task[Any] | None = None
        self._pressed = self._reading = False
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as what a script leaves in the background has it
            signal.signal(signal.SIGINT, self._on_signal)
        self._runner = asyncio.Runner()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A name that is being looked up is waited for."""
        left = self._pressed or kind is KeyboardInterrupt
        if left:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._runner.close()
        if not left:
            signal.signal(signal.SIGINT, self._before)
        elif kind is None:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns. Raises KeyboardInterrupt where that was cancelled by Ctrl+C."""
        try:
            return self._runner.run(self._cancellable(work))
        except asyncio.CancelledError:
            self._hear()
            raise

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns, which does not take long and is not cancelled."""
        return self._runner.run(work)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a person types, or a pipe is read: Ctrl+C is heard at once."""
        self._reading = True
        try:
            self._hear()
            yield
        finally:
            self._reading = False

    async def _cancellable(self, work: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        assert self._task is not None
        if self._pressed:
            self._task.cancel()
        try:
            return await work
        finally:
            self._task = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._reading:
            self._reading = False
            raise KeyboardInterrupt
        if self._pressed:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._pressed = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _hear(self) -> None:
        if self._pressed:
            self._pressed = False
            signal.signal(signal.SIGINT, self._on_signal)
            raise KeyboardInterrupt from None
