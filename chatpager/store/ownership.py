"""Who may write a session's turns, where several servers share a database.

Every server has a name of its own, made anew at each start, and a lease in the ``owners`` that it renews. A turn is
its server's who began it, under the session's ``owner_epoch``: a number that grows whenever another server takes the
session over, which is a compare-and-set. A server takes over a session where no turn of it runs, and a turn whose
server's lease has passed; never from one that lives. Journal and end of a turn are written only where the turn, and
the epoch, are still the writer's: who was taken for dead and wakes up is refused, and nothing is written twice.

Leases are compared with the database's clock alone, and no connection or lock is held between two transactions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, bindparam, delete, exists, func, insert, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.expression import ColumnClause

from chatpager.errors import StoreError
from chatpager.store import faults
from chatpager.store.records import Turn
from chatpager.store.tables import owners, sessions, turns

if TYPE_CHECKING:
    from chatpager.store.database import Database

log = logging.getLogger(__name__)

LEASE_MS = 6000
_RENEWALS = 3
"""In the time of a lease: one that fails leaves room for another."""
_FORGOTTEN_MS = 86_400_000
"""Nobody asks for a lease that passed so long ago."""
_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
"""Milliseconds since the epoch, by the database's clock."""

OWNER = bindparam("owner", type_=turns.c.owner.type)
_EPOCH = select(sessions.c.owner_epoch).where(sessions.c.id == turns.c.session_id).scalar_subquery()
IS_OWN = (turns.c.owner == OWNER) & (turns.c.session_id.is_(None) | (turns.c.owner_epoch == _EPOCH))
"""Whether a turn is that of the server that ``owner`` names, and its session has not been taken over since."""
_IS_OWN_TURN = select(exists().where(turns.c.id == bindparam("id"), IS_OWN))


def _now(c: AsyncConnection) -> ColumnClause[int]:
    return literal_column(_NOW[c.dialect.name])


def may_be_ended(c: AsyncConnection, owner: str) -> ColumnElement[bool]:
    """Of a live turn: it is the server's own, or nobody's any more."""
    lives = exists().where(owners.c.id == turns.c.owner, owners.c.lease_until > _now(c))
    return or_(turns.c.owner.is_(None), turns.c.owner == owner, ~lives)


async def take_over(c: AsyncConnection, turn: Turn, owner: str) -> None:
    """A turn that the transaction holds, and ``may_be_ended``, and its session. Whoever had it commits nothing of it
    any more."""
    if turn.owner == owner:
        return
    epoch = turn.owner_epoch + 1
    if turn.session_id is not None:
        s = sessions.c
        taken = update(sessions).where(s.id == turn.session_id).values(owner=owner, owner_epoch=s.owner_epoch + 1)
        epoch = (await c.execute(taken.returning(s.owner_epoch))).scalar() or epoch
    await c.execute(update(turns).where(turns.c.id == turn.id).values(owner=owner, owner_epoch=epoch))


async def is_own(c: AsyncConnection, turn_id: str, owner: str) -> bool:
    return bool((await c.execute(_IS_OWN_TURN, {"id": turn_id, "owner": owner})).scalar())


async def taken(c: AsyncConnection, ids: Collection[str], owner: str) -> set[str]:
    """Those of these turns that another server has now."""
    mine = turns.c.owner.is_distinct_from(owner)
    return set(await c.scalars(select(turns.c.id).where(turns.c.id.in_(ids), turns.c.owner.is_not(None), mine)))


async def gone(c: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of these turns that were deleted."""
    return set(ids) - set(await c.scalars(select(turns.c.id).where(turns.c.id.in_(ids))))


async def others(c: AsyncConnection, owner: str) -> bool:
    """Whether another server has a lease on the PostgreSQL database, whose schema may be of before there were any."""
    if (await c.execute(select(func.to_regclass(owners.name)))).scalar() is None:
        return False
    found = select(exists().where(owners.c.id != owner, owners.c.lease_until > _now(c)))
    return bool((await c.execute(found)).scalar())


async def renew(c: AsyncConnection, owner: str, milliseconds: int) -> None:
    """The lease ends so long from now; until when it was before is of no matter."""
    await c.execute(delete(owners).where((owners.c.id == owner) | (owners.c.lease_until < _now(c) - _FORGOTTEN_MS)))
    await c.execute(insert(owners).values(id=owner, lease_until=_now(c) + milliseconds))


async def give_back(c: AsyncConnection, owner: str) -> None:
    await c.execute(delete(owners).where(owners.c.id == owner))


class Lease:
    """A server's, which is renewed until it is released. Every method but ``release`` raises StoreError: the database
    is away. ``connect`` makes what connects for nothing else: a server that has all its others in use still lives."""

    def __init__(
        self, database: Database, connect: Callable[[], AsyncEngine], owner: str, milliseconds: int = LEASE_MS
    ) -> None:
        self._database, self._owner, self._milliseconds = database, owner, milliseconds
        self._connect, self._engine = connect, connect()
        self._renewed = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self._now: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()

    async def take(self) -> None:
        try:
            await self._renew()
        except BaseException:
            await self._engine.dispose()
            raise
        self._renewing = asyncio.get_running_loop().create_task(self._keep())

    async def check(self) -> None:
        """What follows is begun under a lease: one that was not renewed in time is renewed first. Others may have ended
        what was begun before, each turn of which tells that itself."""
        if time.monotonic() - self._renewed > self._milliseconds / 1000:
            await self._renew_for_all()

    async def release(self) -> None:
        """What the server leaves unfinished is nobody's from now on."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._written_out()  # a renewal that is stored behind that would be a lease again
        with suppress(StoreError):  # then it passes
            await self._write(lambda c: give_back(c, self._owner))
        await self._written_out()
        await self._engine.dispose()

    async def _written_out(self) -> None:
        """What runs has ended, or had the time."""
        running = {*self._writing, *({self._now} if self._now else ())}
        if running:
            await asyncio.wait(running, timeout=self._every)

    async def _renew_for_all(self) -> None:
        """Who comes while one runs waits for that: there is one connection. Who stops waiting ends it for nobody."""
        if self._now is None or self._now.done():
            self._now = asyncio.get_running_loop().create_task(self._renew())
        await asyncio.shield(self._now)

    async def _renew(self) -> None:
        began = time.monotonic()
        await self._write(lambda c: renew(c, self._owner, self._milliseconds))
        self._renewed = began

    @property
    def _every(self) -> float:
        """Seconds from one renewal to the next, and for each."""
        return self._milliseconds / 1000 / _RENEWALS

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        """A connection that does not answer is left to its end, which may take as long: the next one is another."""
        writing = asyncio.get_running_loop().create_task(self._transaction(work, self._engine))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        try:
            await asyncio.wait([writing], timeout=self._every)
        finally:
            if not writing.done():
                writing.cancel()
                self._engine = self._connect()
        if not writing.done():
            where = self._database.shown
            self._database.condition.refuses = faults.AWAY
            raise StoreError(f"the database {where} is away: it did not answer within {self._every:g} s")
        await writing

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # who waited has it, and who did not wait so long has said that

    async def _transaction(self, work: Callable[[AsyncConnection], Awaitable[None]], engine: AsyncEngine) -> None:
        try:
            async with self._database.write("lease", durable=False, engine=engine) as c:
                await work(c)
        finally:
            if engine is not self._engine:
                await engine.dispose()

    async def _keep(self) -> None:
        due = time.monotonic() + self._every
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + self._every
            try:
                await self._renew_for_all()
            except StoreError as error:
                log.warning("the lease on conversations could not be renewed: %s", error)
