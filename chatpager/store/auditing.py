"""What was done that users may not do, and by whom. Rows are only added: the database refuses to change one, and to
delete it."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.database import Database
from chatpager.store.records import AuditEntry
from chatpager.store.tables import audit

FREES = {"conversation.deleted", "tenant.erased"}
"""What is done that makes room."""


class Audit:
    """Keys' makings and ends are added with them. Each method is one transaction, and raises what ``Store``'s do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """What somebody is about to do: once this returns it outlives a power cut."""
        await self._database.writing("audit", lambda c: add(c, entry), frees=entry.action in FREES)

    async def page(self, *, limit: int, before: int | None = None) -> tuple[list[AuditEntry], bool]:
        """What was done, the latest first, from the entry ``before`` this number on; and whether more was."""
        return await self._database.reading(lambda c: _page(c, limit, before))


async def add(c: AsyncConnection, entry: AuditEntry) -> None:
    names = (column.name for column in audit.columns if column.name != "number")
    await c.execute(insert(audit).values({name: getattr(entry, name) for name in names}))


async def _page(c: AsyncConnection, limit: int, before: int | None) -> tuple[list[AuditEntry], bool]:
    asked = select(audit).order_by(audit.c.number.desc()).limit(limit + 1)
    rows = (await c.execute(asked if before is None else asked.where(audit.c.number < before))).all()
    return [AuditEntry(**row._mapping) for row in rows[:limit]], len(rows) > limit
