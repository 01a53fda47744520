"""Asking what may never answer: a file system that hangs, such as a mount whose server is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Hangs(Exception):
    """No answer within the time, or none yet to what was asked before."""


class Patient:
    """One thread that does what another one asks for, which waits no longer than ``seconds``. While it is stuck nothing
    else is asked of it."""

    def __init__(self, name: str, seconds: float) -> None:
        self.seconds = seconds
        self._asked: SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = SimpleQueue()
        self._stuck: Future[object] | None = None
        # A process that ends waits for no daemon.
        self._thread = threading.Thread(target=self._do_all, name=name, daemon=True)
        self._thread.start()

    def ask(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. Raises Hangs."""
        if self._stuck is not None and not self._stuck.done():
            raise Hangs
        future: Future[T] = Future()
        self._asked.put((future, work))  # type: ignore[arg-type]
        try:
            return future.result(self.seconds)
        except TimeoutError:
            if future.done():  # just now, or it raised that itself
                return future.result()
            self._stuck = future  # type: ignore[assignment]
            raise Hangs from None

    def close(self) -> None:
        """End the thread, when it is not stuck any more."""
        self._asked.put(None)

    def _do_all(self) -> None:
        while (asked := self._asked.get()) is not None:
            future, work = asked
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
