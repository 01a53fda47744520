"""Tenants as their operator sees them: what limits them, and what is left of one that is erased. A tenant has no row of
its own; it is whoever a key, a conversation or a limit names."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import keys
from chatpager.store.database import Database, insert_or_replace
from chatpager.store.records import Limits, TenantRow
from chatpager.store.tables import api_keys, limits, sessions, turns


class Tenants:
    """Each method is one transaction, and raises what ``Store``'s do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def every(self) -> list[TenantRow]:
        """Whoever has a key that opens, a conversation or limits, by name."""
        return await self._database.reading(_every, long=True)

    async def limits(self) -> list[Limits]:
        """All tenants' and keys'."""
        return await self._database.reading(_limited)

    async def limit(self, row: Limits) -> None:
        """Put it in place of what was stored of the same tenant or key. Raises KeyNotFound, of a revoked one too.
        Who is paused by it has no conversation made after that."""
        tenant = row.name if row.kind == "tenant" else None
        await self._database.writing("limit", lambda c: _limit(c, row), tenant, alone=tenant is not None)

    async def revoke_keys(self, tenant: str, *, now: int) -> int:
        """Revoke all of a tenant's keys, and forget their limits; how many keys opened something until now."""
        return await self._database.writing("revoke_keys", lambda c: _revoke_keys(c, tenant, now))

    async def turns_alone(self, tenant: str, most: int) -> list[str]:
        """The ids of some turns without a session, those that run too."""
        return await self._database.reading(lambda c: _turns_alone(c, tenant, most))


async def _limited(c: AsyncConnection) -> list[Limits]:
    rows = (await c.execute(select(limits).order_by(limits.c.kind, limits.c.name))).all()
    return [Limits(**row._mapping) for row in rows]


async def _limit(c: AsyncConnection, row: Limits) -> None:
    if row.kind == "key":
        await keys.hold_open(c, row.name)
    values = {column.name: getattr(row, column.name) for column in limits.columns}
    await c.execute(insert_or_replace(c, limits).values(values))


async def _every(c: AsyncConnection) -> list[TenantRow]:
    kept = (await c.execute(select(sessions.c.tenant, func.count()).group_by(sessions.c.tenant))).all()
    opened = select(api_keys.c.tenant).where(api_keys.c.revoked_at.is_(None))
    conversations, opens = Counter({row[0]: row[1] for row in kept}), Counter((await c.execute(opened)).scalars())
    limited = (await c.execute(select(limits.c.name).where(limits.c.kind == "tenant"))).scalars()
    names = sorted({*conversations, *opens, *limited})
    return [TenantRow(tenant=name, conversations=conversations[name], keys=opens[name]) for name in names]


async def _revoke_keys(c: AsyncConnection, tenant: str, now: int) -> int:
    open_ones = select(api_keys.c.id).where(api_keys.c.tenant == tenant, api_keys.c.revoked_at.is_(None))
    ids = list((await c.execute(open_ones)).scalars())
    for id in ids:
        await keys.revoke(c, id, now)
    theirs = select(api_keys.c.id).where(api_keys.c.tenant == tenant)
    await c.execute(delete(limits).where(limits.c.kind == "key", limits.c.name.in_(theirs)))
    return len(ids)


async def _turns_alone(c: AsyncConnection, tenant: str, most: int) -> list[str]:
    found = select(turns.c.id).where(turns.c.tenant == tenant, turns.c.session_id.is_(None)).limit(most)
    return list((await c.execute(found)).scalars())
