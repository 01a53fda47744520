"""One database: its connections, and the two kinds of transaction, reading and writing.

A write is durable or relaxed. Durable is for what is acknowledged: it outlives a power cut. Relaxed outlives the
death of the process, and a later durable write carries it to the disk; on PostgreSQL it is gone when that is killed
within the next half second, so no token that anybody may have seen is written so there. SQLite has one writer, so
writers queue here in order of arrival, and wait ``busy_timeout_ms`` at the most for a writer of another process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import URL, ColumnElement, Insert, Table, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chatpager import failpoints
from chatpager.errors import ConfigError, NotUpgraded, StorageFull, StoreError
from chatpager.store import address, claim, faults, ownership
from chatpager.store.condition import Condition
from chatpager.store.group_commit import GroupCommit
from chatpager.store.one_visit import OneVisit
from chatpager.store.reserve import Reserve
from chatpager.store.visits import Asked, Visits, Work, set_pragmas

T = TypeVar("T")
BUSY_TIMEOUT_MS = 5000
NUL = "\0"
"""PostgreSQL takes it in no text, so no id and no title has one."""
_PRAGMAS = ("foreign_keys=ON", "wal_autocheckpoint=16384", "secure_delete=ON", "temp_store=MEMORY")
"""The log is carried over beside the journal's writes (``one_visit``); only where that does not keep up a write waits,
as with SQLite's own 1,000 pages one step in twenty of 64 turns did. What is deleted is overwritten with zeros, as not
every build of SQLite does by itself. What one of several writers may have to take back waits in memory: there may be no
folder for a temporary file, and in one it would not be overwritten."""
_CONNECT_SECONDS = 10
_SOON = 0.02
_COMMAND_SECONDS = 60


class Database:
    """Raises ``StoreError`` from every method: the database is locked, full, read-only, away or damaged. One that is
    to be ``share``d, PostgreSQL, may have several servers; SQLite raises ConfigError then."""

    def __init__(self, url: str, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, share: bool = False) -> None:
        self.url = address.parse(url)
        self.owner = secrets.token_hex(8)
        """Its name among those that have the database open, and others before and after it."""
        self._share = share
        if share and address.is_sqlite(self.url):
            raise ConfigError("share_database", "a SQLite database has one server; give a postgresql database_url")
        self.shown = address.place(self.url)
        self.file = address.file_of(self.url) if address.is_sqlite(self.url) else None
        self._busy_timeout_ms = busy_timeout_ms
        self._queue = asyncio.Lock() if self.file else None
        self.condition = Condition(self.shown, self.file)
        self.reserve = Reserve(self.file) if self.file else None
        self.transactions = {"read": 0, "write": 0}
        """Begun since it was opened, but for a lease's renewals."""
        self._log_holds_deleted = True
        """It may: also what was deleted by a server that died before the log was emptied."""
        self._claim: claim.FileClaim | claim.ConnectionClaim | ownership.Lease | None = None
        pragmas = (*_PRAGMAS, f"busy_timeout={busy_timeout_ms}")
        self._engine = _sqlite_engine(self.url, pragmas) if self.file else _postgres_engine(self.url)
        self._one_visit = OneVisit(self.file, pragmas) if self.file else None
        self._visits = Visits(self.url, (*pragmas, "synchronous=FULL")) if self.file else None
        self._group = GroupCommit(self._queue, self._commit) if self._queue else None

    def make_file(self) -> None:
        """Make SQLite's file and its folder, for this user only; whatever exists is left as it is.

        It is not even opened: to close a file ends every lock of the process on it (POSIX), and with its connections'
        locks gone, another process that closes the database deletes the log that these still write to.
        """
        if self.file is None or _is_file(self.file, self.shown):
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"the database {self.shown} cannot be made: {error.strerror}") from error

    async def connect(self) -> None:
        """Make sure that the database answers, and of SQLite that it keeps a write-ahead log."""
        if self.file is None:
            async with self.read():
                return
        if not _is_file(self.file, self.shown):
            raise NotUpgraded(f"the database {self.shown} does not exist")
        with faults.translated(self.shown):
            async with self._engine.connect() as c:
                mode = await self._write_ahead(c)
            self.condition.opened()
        if mode != "wal":
            raise StoreError(f"the database {self.shown} is on a file system that cannot share memory (WAL)")

    async def _write_ahead(self, c: AsyncConnection) -> str:
        """The journal's mode once it has been asked to be a write-ahead log. SQLite does not wait for another
        connection that changes the same, whatever its busy timeout is: so we do."""
        now = asyncio.get_running_loop().time
        until = now() + self._busy_timeout_ms / 1000
        while True:
            try:
                return str((await c.exec_driver_sql("PRAGMA journal_mode=WAL")).scalar())
            except OperationalError as error:
                if not faults.is_locked(error) or now() >= until:
                    raise
            await asyncio.sleep(_SOON)

    async def claim(self) -> None:
        """Become, or stay, the only server of this database until ``close``, or one of those that share it. Raises
        StoreError when another one is, or they do, where this one does not; ConfigError behind a pooler, where it must
        share: no connection is its own there."""
        if self._claim is not None:
            return
        if self.file:
            self._claim = held = claim.FileClaim(self.file.resolve(), self.shown)
            self.condition.claim_lost = held.lost
            return
        if self._share:
            await self._refuse_a_claim()
            lease = ownership.Lease(self, partial(_postgres_engine, self.url, pool_size=1, max_overflow=0), self.owner)
            await lease.take()
            self._claim = lease
            return
        if address.for_asyncpg(self.url):
            problem = "a pooler (prepared_statement_cache_size=0) gives no server a connection of its own: turn it on"
            raise ConfigError("share_database", problem)
        taking = claim.ConnectionClaim(self._engine, self.shown)
        await taking.take()
        self._claim = taking
        async with self.read() as c:
            if await ownership.others(c, self.owner):
                await self._let_go()
                raise StoreError(f"the database {self.shown} is shared by other servers: {claim.SHARE_OR_STOP}")

    async def claim_to_migrate(self) -> None:
        """``claim``, unless all who have the database share it: they go on with what a revision makes of it."""
        if self._share:
            await self._refuse_a_claim()
        else:
            await self.claim()

    async def _refuse_a_claim(self) -> None:
        async with self.read() as c:
            if await claim.is_claimed(c):
                raise StoreError(f"the database {self.shown} is in use by a server that does not share it: stop it")

    async def close(self) -> None:
        if isinstance(self._claim, ownership.Lease):
            await self._let_go()  # it writes, once more
        self.condition.closed()
        if self._group is not None and self._queue is not None:
            async with self._queue:  # who writes just now needs its thread to the end
                pass
            await self._group.close()
        for visiting in (self._one_visit, self._visits):
            if visiting is not None:
                await visiting.close()
        self._one_visit = self._visits = None
        await self._let_go()  # who claims it next finds what was still being written
        await self._engine.dispose()

    async def _let_go(self) -> None:
        held, self._claim = self._claim, None
        self.condition.claim_lost = lambda: ""
        if isinstance(held, claim.FileClaim):
            held.release()
        elif held is not None:
            await held.release()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that only reads; on SQLite it sees one state of the database."""
        self.condition.check()
        self.transactions["read"] += 1
        with faults.translated(self.shown):
            async with self._engine.connect() as c:
                if self.file:
                    await c.exec_driver_sql("BEGIN")
                yield c

    @asynccontextmanager
    async def write(
        self,
        name: str,
        tenant: str | None = None,
        *,
        durable: bool = True,
        alone: bool = False,
        owned: bool = False,
        engine: AsyncEngine | None = None,
    ) -> AsyncIterator[AsyncConnection]:
        """One transaction, committed where the block ends well. ``name`` is its part of its failpoints' names.

        Writers of a ``tenant`` run beside each other, but none beside one that must be ``alone``: what a deletion finds
        needed by nobody must stay so until it is gone, and what is counted must not grow. Without a tenant there is no
        such care. ``owned`` is what only the server that has claimed the database may write: its claim is checked
        first. ``engine`` has the connection; None: it is one of the pool's, which may all be in use.
        """
        if owned and isinstance(self._claim, claim.ConnectionClaim | ownership.Lease):
            await self._claim.check()
        async with self._writing(name), (engine or self._engine).connect() as c:
            if self.file:
                await _begin_sqlite(c, durable)
            else:
                await _begin_postgres(c, durable, self._busy_timeout_ms, tenant, alone)
            yield c
            failpoints.hit(f"store.{name}.before_commit")
            await c.commit()

    async def reading(self, work: Work[T], *, long: bool = False) -> T:
        """What ``work`` returns of a transaction as ``read`` opens; on SQLite in one visit to a thread. ``long``: it
        may take a while, and waits for others of the kind."""
        if self._visits is None:
            async with self.read() as c:
                return await work(c)
        self.condition.check_known()  # else its threads may be gone
        self.transactions["read"] += 1
        with faults.translated(self.shown):
            return await self._visits.read(work, self.condition.check_file, long=long)

    async def writing(
        self,
        name: str,
        work: Work[T],
        tenant: str | None = None,
        *,
        deletes: bool = False,
        alone: bool = False,
        owned: bool = False,
        frees: bool | None = None,
    ) -> T:
        """What ``work`` returns of a durable transaction as ``write`` opens; on SQLite in one visit to a thread.
        What it ``deletes`` is then in no file of SQLite's any more, or once nobody reads what the log has; who deletes
        is ``alone``. What ``frees`` room (None: what ``deletes``) may have the reserve where the disk is full."""
        try:
            return await self._write_whole(name, work, tenant, deletes, alone, owned)
        except StorageFull:
            may = deletes if frees is None else frees
            if not (may and self.reserve is not None and await asyncio.to_thread(self.reserve.give)):
                raise
        return await self._write_whole(name, work, tenant, deletes, alone, owned)

    async def _write_whole(
        self, name: str, work: Work[T], tenant: str | None, deletes: bool, alone: bool, owned: bool
    ) -> T:
        if self._group is None:
            async with self.write(name, tenant, alone=alone or deletes, owned=owned) as c:
                return await work(c)
        before_commit = partial(failpoints.hit, f"store.{name}.before_commit")
        if deletes:  # what is deleted is in no file any more when it is told, and nobody else waits for that
            async with self._writing(name):
                self._log_holds_deleted = True
                return cast(T, await self._written_alone(Asked(work, before_commit)))
        done = await self._group.write(work, before_commit)
        failpoints.hit(f"store.{name}.after_commit")
        return done

    async def _written_alone(self, asked: Asked) -> Any:
        assert self._visits is not None
        (end,) = await self._visits.write([asked])
        if isinstance(end, Exception):
            raise end
        await self._empty_log()
        return end

    async def _commit(self, asked: Sequence[Asked]) -> list[Any]:
        """One transaction of SQLite's, in the writers' queue."""
        try:
            self.condition.check()
            assert self._visits is not None
            self.transactions["write"] += 1
            ends = await self._visits.write(asked)
            await self._empty_log()
        except Exception as error:
            ends = [error] * len(asked)
        return [self.condition.judged(end) for end in ends]

    async def _empty_log(self) -> None:
        if self._log_holds_deleted and self._visits is not None:
            if self._one_visit is not None:
                await self._one_visit.carried_over()
            self._log_holds_deleted = not await self._visits.empty_log()

    async def write_in_one_visit(
        self, name: str, work: Callable[[sqlite3.Connection], T], committed: Callable[[], None]
    ) -> T:
        """One relaxed transaction of SQLite's, as short in the event loop as can be: ``work`` runs in a thread, and
        ``committed`` behind the commit."""
        async with self._writing(name):
            assert self._one_visit is not None
            return await self._one_visit.write(name, work, committed)

    @asynccontextmanager
    async def _writing(self, name: str) -> AsyncIterator[None]:
        """Around a write, whichever way: in its turn, to a database that can be written to, with errors in words."""
        async with self._queue or nullcontext():
            self.condition.check()
            of_lease = name == "lease"
            if not of_lease:
                self.transactions["write"] += 1
            with self.condition.judging(of_lease):
                yield
        failpoints.hit(f"store.{name}.after_commit")


def insert_or_ignore(c: AsyncConnection, table: Table) -> Insert:
    """An INSERT that leaves a row alone that exists. Give ``execute`` its values: it is the same one each time."""
    return _insert_or_ignore(c.dialect.name, table)


@cache
def _insert_or_ignore(dialect: str, table: Table) -> Insert:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def insert_or_replace(c: AsyncConnection, table: Table) -> Insert:
    """An INSERT of a row in place of the one with the same primary key, in one statement: others may write it too."""
    made = sqlite.insert(table) if c.dialect.name == "sqlite" else postgresql.insert(table)
    new = {column.name: made.excluded[column.name] for column in table.columns if not column.primary_key}
    return made.on_conflict_do_update(index_elements=table.primary_key.columns, set_=new)


def _sqlite_engine(url: URL, pragmas: tuple[str, ...]) -> AsyncEngine:
    # Without an isolation level the driver leaves BEGIN to us.
    engine = create_async_engine(url, hide_parameters=True, pool_use_lifo=True, connect_args={"isolation_level": None})

    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        set_pragmas((*pragmas, "synchronous=FULL"), connection, record)
        record.info["durable"] = True

    return engine


def _postgres_engine(url: URL, **pool: int) -> AsyncEngine:
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_use_lifo=True,
        connect_args={
            "timeout": _CONNECT_SECONDS,
            "command_timeout": _COMMAND_SECONDS,
            "server_settings": {"application_name": "chatpager"},
            **address.for_asyncpg(url),
        },
        **pool,
    )


async def _begin_sqlite(c: AsyncConnection, durable: bool) -> None:
    if c.info["durable"] != durable:
        await c.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        c.info["durable"] = durable
    await c.exec_driver_sql("BEGIN IMMEDIATE")


async def _begin_postgres(
    c: AsyncConnection, durable: bool, busy_timeout_ms: int, tenant: str | None, alone: bool
) -> None:
    # In one round trip, and for this transaction only: a pooler may hand the connection to somebody else.
    opening: list[ColumnElement[Any]] = [
        func.set_config("synchronous_commit", "on" if durable else "off", True),
        func.set_config("lock_timeout", f"{busy_timeout_ms}ms", True),
    ]
    if tenant is not None:
        lock = func.pg_advisory_xact_lock if alone else func.pg_advisory_xact_lock_shared
        opening.append(lock(func.hashtextextended(tenant, 0)))
    await c.execute(select(*opening))


def _is_file(file: Path, shown: str) -> bool:
    """Raises StoreError where that cannot be told."""
    try:
        return file.is_file()
    except OSError as error:
        raise StoreError(f"the database {shown} cannot be opened: {error.strerror}") from error
