"""SQLite in one visit: a transaction runs in a thread from its beginning to its commit.

The store's rooms are written for an asynchronous connection, which PostgreSQL needs. To SQLite it would go to a thread
and back for every statement, and again for every cursor: 5 ms of CPU for a turn's beginning, most of it in the event
loop. So what a room awaits is done here as soon as it is asked for, and its coroutine runs through without waiting.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import URL, Connection, Dialect, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import faults
from chatpager.store.reserve import can_grow

T = TypeVar("T")
Work = Callable[[AsyncConnection], Coroutine[Any, Any, T]]
READERS, SEARCHERS = 4, 1
"""Threads. A search through everything a tenant has must not keep a turn's short reads waiting."""
READERS_MS = 20
"""Milliseconds that writers wait for readers to leave the log."""


class Asked(NamedTuple):
    """A write; ``before_commit`` is called behind its work, in its thread."""

    work: Work[Any]
    before_commit: Callable[[], None]


class _Apart(Exception):
    """What cannot be told of one part of a transaction alone."""


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

    async def read(self, work: Work[T], check: Callable[[], None], *, long: bool = False) -> T:
        """What ``work`` returns, unless ``check``, which is called in the thread, raises."""
        return await in_thread(self._searchers if long else self._readers, self._read, work, check)

    async def write(self, asked: Sequence[Asked]) -> list[Any]:
        """Of each what its work returned, committed, or the exception that it ended with, and nothing of it is written:
        in one transaction, unless one of them fails in such a way that nobody knows what is left of that. Raises what
        ends them all. Who is cancelled waits until the thread is done."""
        return await in_thread(self._writer, self._run_all, asked)

    async def empty_log(self) -> bool:
        """Write all that the log has to the database and leave the log empty. False: others read it just now, or the
        disk is in no state to, or has no room; nothing is lost by that."""
        return await in_thread(self._writer, self._empty_log)

    async def close(self) -> None:
        for threads in (self._readers, self._searchers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        self._engine.dispose()

    def _read(self, work: Work[T], check: Callable[[], None]) -> T:
        check()
        return self._run("BEGIN", work, None)

    def _run(self, begin: str, work: Work[T], before_commit: Callable[[], None] | None) -> T:
        with self._engine.connect() as c:
            c.exec_driver_sql(begin)
            done = _through(work(cast(AsyncConnection, AtOnce(c))))
            if before_commit is not None:
                before_commit()
                _commit(c)
            return done

    def _run_all(self, asked: Sequence[Asked]) -> list[Any]:
        if len(asked) > 1:
            with suppress(_Apart):
                return self._in_one(asked)
        ends: list[Any] = []
        for one in asked:
            ends.append(end := self._alone(one))
            # Behind a lost write none may be written; and where another has the database each would wait as long again.
            if isinstance(end, Exception) and (faults.lost_a_write(end) or faults.is_locked(end)):
                return ends + [end] * (len(asked) - len(ends))
        return ends

    def _alone(self, one: Asked) -> Any:
        try:
            return self._run("BEGIN IMMEDIATE", one.work, one.before_commit)
        except Exception as error:
            return error

    def _in_one(self, asked: Sequence[Asked]) -> list[Any]:
        with self._engine.connect() as c:
            c.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                ends = [self._end_of(one, c) for one in asked]
                _commit(c)
            except (DBAPIError, sqlite3.Error) as error:  # SQLite may have ended the transaction
                if faults.lost_a_write(error):
                    raise
                raise _Apart from error
            return ends

    def _end_of(self, one: Asked, c: Connection) -> Any:
        c.exec_driver_sql("SAVEPOINT one")
        try:
            end = _through(one.work(cast(AsyncConnection, AtOnce(c))))
            one.before_commit()
        except (DBAPIError, sqlite3.Error):
            raise
        except Exception as error:
            end = error
            c.exec_driver_sql("ROLLBACK TO one")
        c.exec_driver_sql("RELEASE one")
        return end

    def _empty_log(self) -> bool:
        # What was committed must not seem to have failed.
        with suppress(DBAPIError, OSError), self._engine.connect() as c:
            patience = c.exec_driver_sql("PRAGMA busy_timeout").scalar()
            try:
                c.exec_driver_sql(f"PRAGMA busy_timeout={READERS_MS}")
                pages, size = (c.exec_driver_sql(f"PRAGMA page_{what}").scalar_one() for what in ("count", "size"))
                if not can_grow(Path(self._engine.url.database or ""), pages * size):
                    return False
                return c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar() == 0
            finally:
                c.exec_driver_sql(f"PRAGMA busy_timeout={patience}")
        return False


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


def _commit(c: Connection) -> None:
    try:
        c.commit()
    except DBAPIError:
        c.connection.rollback()  # to SQLAlchemy it has ended, to SQLite it may go on
        raise


def _through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    coroutine.close()
    raise RuntimeError("a room of the store waited for something else than its connection")
