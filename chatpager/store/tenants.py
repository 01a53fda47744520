"""Tenants as their operator sees them: what limits them, and what is left of one that is erased. A tenant has no row of
its own; it is whoever a key, a conversation or a limit names."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import keys
from chatpager.store.database import insert_or_replace
from chatpager.store.records import Limits, TenantRow
from chatpager.store.tables import api_keys, limits, sessions, turns


async def limited(c: AsyncConnection) -> list[Limits]:
    rows = (await c.execute(select(limits).order_by(limits.c.kind, limits.c.name))).all()
    return [Limits(**row._mapping) for row in rows]


async def limit(c: AsyncConnection, row: Limits) -> None:
    """In place of what was stored of the same tenant or key, which has to open something."""
    if row.kind == "key":
        await keys.hold_open(c, row.name)
    values = {column.name: getattr(row, column.name) for column in limits.columns}
    await c.execute(insert_or_replace(c, limits).values(values))


async def every(c: AsyncConnection) -> list[TenantRow]:
    """By name."""
    kept = (await c.execute(select(sessions.c.tenant, func.count()).group_by(sessions.c.tenant))).all()
    opened = select(api_keys.c.tenant).where(api_keys.c.revoked_at.is_(None))
    conversations, opens = Counter({row[0]: row[1] for row in kept}), Counter((await c.execute(opened)).scalars())
    limited = (await c.execute(select(limits.c.name).where(limits.c.kind == "tenant"))).scalars()
    names = sorted({*conversations, *opens, *limited})
    return [TenantRow(tenant=name, conversations=conversations[name], keys=opens[name]) for name in names]


async def revoke_keys(c: AsyncConnection, tenant: str, now: int) -> int:
    """Of a tenant, and forget what limited them; how many opened something until now."""
    open_ones = select(api_keys.c.id).where(api_keys.c.tenant == tenant, api_keys.c.revoked_at.is_(None))
    ids = list((await c.execute(open_ones)).scalars())
    for id in ids:
        await keys.revoke(c, id, now)
    theirs = select(api_keys.c.id).where(api_keys.c.tenant == tenant)
    await c.execute(delete(limits).where(limits.c.kind == "key", limits.c.name.in_(theirs)))
    return len(ids)


async def turns_alone(c: AsyncConnection, tenant: str, most: int) -> list[str]:
    """Some of a tenant's turns without a session."""
    found = select(turns.c.id).where(turns.c.tenant == tenant, turns.c.session_id.is_(None)).limit(most)
    return list((await c.execute(found)).scalars())
