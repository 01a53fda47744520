"""What was done that users may not do, and by whom. Rows are only added: the database refuses to change one, and to
delete it."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.records import AuditEntry
from chatpager.store.tables import audit


async def add(c: AsyncConnection, entry: AuditEntry) -> None:
    names = (column.name for column in audit.columns if column.name != "number")
    await c.execute(insert(audit).values({name: getattr(entry, name) for name in names}))


async def page(c: AsyncConnection, limit: int, before: int | None) -> tuple[list[AuditEntry], bool]:
    """The latest first."""
    asked = select(audit).order_by(audit.c.number.desc()).limit(limit + 1)
    rows = (await c.execute(asked if before is None else asked.where(audit.c.number < before))).all()
    return [AuditEntry(**row._mapping) for row in rows[:limit]], len(rows) > limit
