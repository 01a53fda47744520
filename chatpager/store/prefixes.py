"""Published prefixes: the operator's, and no tenant's."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import PrefixExists, PrefixNotFound, shown
from chatpager.store import chain
from chatpager.store.database import NUL, Database, insert_or_ignore
from chatpager.store.records import Prefix
from chatpager.store.tables import prefixes


class Prefixes:
    """Each method is one transaction, and raises what ``Store``'s do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def publish(self, new: Prefix) -> Prefix:
        """Store a prefix; the one that is stored, which is as it was where the same was published before.

        Raises:
            PrefixExists: its label has other instructions, or those of another vocabulary.
        """
        return await self._database.writing("publish_prefix", lambda c: _add(c, new))

    async def get(self, label: str) -> Prefix:
        """Raises PrefixNotFound."""
        return await self._database.reading(lambda c: _get(c, label))

    async def every(self) -> list[Prefix]:
        """Of whatever model, the oldest first."""
        return await self._database.reading(_every)

    async def withdraw(self, label: str) -> None:
        """Raises PrefixNotFound."""
        await self._database.writing("withdraw_prefix", lambda c: _remove(c, label))


async def _add(c: AsyncConnection, new: Prefix) -> Prefix:
    fields = {column.name: getattr(new, column.name) for column in prefixes.columns}
    values = {**fields, "token_ids": chain.pack(new.token_ids)}
    if (await c.execute(insert_or_ignore(c, prefixes).values(values))).rowcount:
        return new
    known = await _get(c, new.label)
    if (known.instructions, known.vocab) != (new.instructions, new.vocab):
        raise PrefixExists(f"{new.label!r} is published with other instructions; withdraw it first", param="label")
    return known


async def _get(c: AsyncConnection, label: str) -> Prefix:
    row = None if NUL in label else (await c.execute(select(prefixes).where(prefixes.c.label == label))).one_or_none()
    if row is None:
        raise PrefixNotFound(f"no prefix {shown(label)}")
    return _prefix(row)


async def _every(c: AsyncConnection) -> list[Prefix]:
    rows = await c.execute(select(prefixes).order_by(prefixes.c.created_at, prefixes.c.label))
    return [_prefix(row) for row in rows]


async def _remove(c: AsyncConnection, label: str) -> None:
    await _get(c, label)
    await c.execute(delete(prefixes).where(prefixes.c.label == label))


def _prefix(row: Row[tuple[object, ...]]) -> Prefix:
    return Prefix(**{**row._mapping, "token_ids": chain.unpack(row.token_ids)})
