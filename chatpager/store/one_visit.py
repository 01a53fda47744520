"""SQLite in one visit: a small transaction that runs in a thread of its own from its beginning to its commit.

An asynchronous connection goes to its thread and back for every statement, and again for every cursor. For the journal,
which is written at every step, that took the event loop 2 to 3 ms of CPU a token.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from chatpager import failpoints

T = TypeVar("T")


class OneVisit:
    """A connection to ``file`` whose commits are relaxed: they outlive the process, not a power cut."""

    def __init__(self, file: Path, pragmas: tuple[str, ...]) -> None:
        self._file, self._pragmas = file, pragmas
        self._thread = ThreadPoolExecutor(1, "chatpager-journal")
        self._connection: sqlite3.Connection | None = None

    async def write(self, name: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns, committed. Raises sqlite3.Error; then nothing was written.

        Who is cancelled waits until the thread is done, so that the next writer does not come upon it.
        """
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, name, work)
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            if not writing.cancelled() and (error := writing.exception()):
                raise error from None
            raise

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _write(self, name: str, work: Callable[[sqlite3.Connection], T]) -> T:
        c = self._connection = self._connection or self._connect()
        c.execute("BEGIN IMMEDIATE")
        try:
            done = work(c)
            failpoints.hit(f"store.{name}.before_commit")
            c.execute("COMMIT")
        except BaseException:
            if c.in_transaction:
                c.execute("ROLLBACK")
            raise
        return done

    def _connect(self) -> sqlite3.Connection:
        c = sqlite3.connect(
            f"{self._file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None
        )  # makes no file
        for pragma in (*self._pragmas, "synchronous=NORMAL"):
            with closing(c.execute(f"PRAGMA {pragma}")):
                pass
        return c

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
