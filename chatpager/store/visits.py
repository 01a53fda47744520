"""SQLite in one visit: a transaction runs in a thread from its beginning to its commit.

The store's rooms are written for an asynchronous connection, which PostgreSQL needs. To SQLite it would go to a thread
and back for every statement, and again for every cursor: 5 ms of CPU for a turn's beginning, most of it in the event
loop. So what a room awaits is done here as soon as it is asked for, and its coroutine runs through without waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, Dialect, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.reserve import can_grow

T = TypeVar("T")
Work = Callable[[AsyncConnection], Coroutine[Any, Any, T]]
READERS, SEARCHERS = 4, 1
"""Threads. A search through everything a tenant has must not keep a turn's short reads waiting."""
READERS_MS = 20
"""Milliseconds that writers wait for readers to leave the log."""


class AtOnce:
    """What the store's rooms use of an ``AsyncConnection``, with nothing to wait for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        return self._connection.execute(statement, parameters)

    async def scalars(self, statement: Any) -> Any:
        return self._connection.scalars(statement)


class Visits:
    """``pragmas`` are those of every connection. The caller sees to it that there is one writer at a time."""

    def __init__(self, url: URL, pragmas: tuple[str, ...]) -> None:
        # Without an isolation level the driver leaves BEGIN to us.
        self._engine = create_engine(
            url.set(drivername="sqlite"),
            hide_parameters=True,
            pool_use_lifo=True,
            connect_args={"isolation_level": None},
        )
        event.listen(self._engine, "connect", partial(set_pragmas, pragmas))
        self._readers = ThreadPoolExecutor(READERS, "chatpager-reads")
        self._searchers = ThreadPoolExecutor(SEARCHERS, "chatpager-searches")
        self._writer = ThreadPoolExecutor(1, "chatpager-writes")

    async def read(self, work: Work[T], *, long: bool = False) -> T:
        return await in_thread(self._searchers if long else self._readers, self._run, "BEGIN", work, None)

    async def write(self, work: Work[T], before_commit: Callable[[], None]) -> T:
        """Committed when it returns; who is cancelled waits until the thread is done."""
        return await in_thread(self._writer, self._run, "BEGIN IMMEDIATE", work, before_commit)

    async def empty_log(self) -> bool:
        """Write all that the log has to the database and leave the log empty. False: others read it just now, or the
        disk is in no state to, or has no room; nothing is lost by that."""
        return await in_thread(self._writer, self._empty_log)

    async def close(self) -> None:
        for threads in (self._readers, self._searchers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        self._engine.dispose()

    def _run(self, begin: str, work: Work[T], before_commit: Callable[[], None] | None) -> T:
        with self._engine.connect() as c:
            c.exec_driver_sql(begin)
            done = _through(work(cast(AsyncConnection, AtOnce(c))))
            if before_commit is not None:
                before_commit()
                c.commit()
            return done

    def _empty_log(self) -> bool:
        with self._engine.connect() as c:
            patience = c.exec_driver_sql("PRAGMA busy_timeout").scalar()
            try:
                c.exec_driver_sql(f"PRAGMA busy_timeout={READERS_MS}")
                pages, size = (c.exec_driver_sql(f"PRAGMA page_{what}").scalar_one() for what in ("count", "size"))
                if not can_grow(Path(self._engine.url.database or ""), pages * size):
                    return False
                return c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar() == 0
            except (DBAPIError, OSError):
                return False
            finally:
                c.exec_driver_sql(f"PRAGMA busy_timeout={patience}")


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """What takes long and needs no connection: beside the event loop, or in the visit's own thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def set_pragmas(pragmas: tuple[str, ...], connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def in_thread(threads: Executor, work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns. Who is cancelled waits for its end, so that the next one does not come upon it."""
    running = asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled() and (error := running.exception()):
            raise error from None
        raise


def _through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    coroutine.close()
    raise RuntimeError("a room of the store waited for something else than its connection")
