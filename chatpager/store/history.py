"""What turns found in the cache, by the minute; no tenant's. The figures are the server's to name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.database import Database, insert_or_replace
from chatpager.store.tables import history


class History:
    """Each method is one transaction, and raises what ``Store``'s do. Minutes are named by their first second since the
    epoch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, rows: Mapping[int, Mapping[str, Any]], *, oldest: int) -> None:
        """Put figures of these minutes in place of what was kept of them, and forget those before ``oldest``."""
        await self._database.writing("keep_history", lambda c: _keep(c, rows, oldest))

    async def since(self, minute: int) -> dict[int, dict[str, Any]]:
        """Oldest first."""
        return await self._database.reading(lambda c: _since(c, minute))


async def _keep(c: AsyncConnection, rows: Mapping[int, Mapping[str, Any]], oldest: int) -> None:
    await c.execute(delete(history).where(history.c.minute < oldest))
    if rows:
        kept = [{"minute": minute, "figures": figures} for minute, figures in rows.items()]
        await c.execute(insert_or_replace(c, history), kept)


async def probe(c: AsyncConnection, size: int) -> None:
    """Write so many bytes into a row that nobody reads and that ``keep`` forgets, in place of those before them."""
    await c.execute(insert_or_replace(c, history), {"minute": 0, "figures": {"probe": secrets.token_hex(size // 2)}})


async def _since(c: AsyncConnection, minute: int) -> dict[int, dict[str, Any]]:
    query = select(history).where(history.c.minute >= minute).order_by(history.c.minute)
    return {row.minute: row.figures for row in await c.execute(query)}
