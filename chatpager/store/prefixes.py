"""Published prefixes: the operator's, and no tenant's."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import PrefixExists, PrefixNotFound, shown
from chatpager.store import chain
from chatpager.store.database import NUL, insert_or_ignore
from chatpager.store.records import Prefix
from chatpager.store.tables import prefixes


async def add(c: AsyncConnection, new: Prefix) -> Prefix:
    """Returns the stored one, which is older where it was stored before."""
    fields = {column.name: getattr(new, column.name) for column in prefixes.columns}
    values = {**fields, "token_ids": chain.pack(new.token_ids)}
    if (await c.execute(insert_or_ignore(c, prefixes).values(values))).rowcount:
        return new
    known = await get(c, new.label)
    if (known.instructions, known.vocab) != (new.instructions, new.vocab):
        raise PrefixExists(f"{new.label!r} is published with other instructions; withdraw it first", param="label")
    return known


async def get(c: AsyncConnection, label: str) -> Prefix:
    row = None if NUL in label else (await c.execute(select(prefixes).where(prefixes.c.label == label))).one_or_none()
    if row is None:
        raise PrefixNotFound(f"no prefix {shown(label)}")
    return _prefix(row)


async def every(c: AsyncConnection) -> list[Prefix]:
    rows = await c.execute(select(prefixes).order_by(prefixes.c.created_at, prefixes.c.label))
    return [_prefix(row) for row in rows]


async def remove(c: AsyncConnection, label: str) -> None:
    await get(c, label)
    await c.execute(delete(prefixes).where(prefixes.c.label == label))


def _prefix(row: Row[tuple[object, ...]]) -> Prefix:
    return Prefix(**{**row._mapping, "token_ids": chain.unpack(row.token_ids)})
