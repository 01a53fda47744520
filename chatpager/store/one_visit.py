"""The journal's way to SQLite: as ``visits``, and without SQLAlchemy, for it is written at every step."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from chatpager import failpoints
from chatpager.store.reserve import can_grow
from chatpager.store.visits import in_thread

T = TypeVar("T")
LOG_ROWS = 4096
"""Written since the log was last carried to the database, after which that is done again. A row is a page of the log or
two, for nearly every one lies at a place of its own."""
PASSES = 8
"""What is written while the log is carried over needs another pass, a short one."""


class OneVisit:
    """A connection to ``file`` whose commits are relaxed: they outlive the process, not a power cut. The log is carried
    to the database beside them: a step that waited for that would wait for the disk."""

    def __init__(self, file: Path, pragmas: tuple[str, ...]) -> None:
        self._file, self._pragmas = file, pragmas
        self._thread = ThreadPoolExecutor(1, "chatpager-journal")
        self._connection: sqlite3.Connection | None = None
        self._beside = ThreadPoolExecutor(1, "chatpager-checkpoint")
        self._carrying: Future[None] | None = None
        self._rows = 0

    async def write(
        self, name: str, work: Callable[[sqlite3.Connection], T], committed: Callable[[], None] = lambda: None
    ) -> T:
        """What ``work`` returns, committed; then ``committed`` is called, in the same thread. Raises sqlite3.Error;
        then nothing was written."""
        return await in_thread(self._thread, self._write, name, work, committed)

    async def carried_over(self) -> None:
        """Wait until nothing carries the log over, so that somebody else can."""
        if self._carrying is not None:
            await asyncio.wait([asyncio.wrap_future(self._carrying)])

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()
        await asyncio.to_thread(self._beside.shutdown)

    def _write(self, name: str, work: Callable[[sqlite3.Connection], T], committed: Callable[[], None]) -> T:
        c = self._connection = self._connection or self._connect()
        before = c.total_changes
        c.execute("BEGIN IMMEDIATE")
        try:
            done = work(c)
            failpoints.hit(f"store.{name}.before_commit")
            c.execute("COMMIT")
        except BaseException:
            if c.in_transaction:
                c.execute("ROLLBACK")
            raise
        committed()
        self._rows += c.total_changes - before
        if self._rows >= LOG_ROWS and (self._carrying is None or self._carrying.done()):
            self._rows = 0
            self._carrying = self._beside.submit(self._carry_over)
        return done

    def _carry_over(self) -> None:
        """What fails of it is tried again, and told by who has to wait for it in the end (``wal_autocheckpoint``)."""
        with suppress(sqlite3.Error, OSError), closing(self._connect()) as c:
            pages, size = (c.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
            for _ in range(PASSES if can_grow(self._file, pages * size) else 0):
                _, written, carried = c.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if written == carried:
                    break

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
