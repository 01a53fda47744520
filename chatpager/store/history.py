"""What turns found in the cache, by the minute; no tenant's. The figures are the server's to name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.database import insert_or_replace
from chatpager.store.tables import history


async def keep(c: AsyncConnection, rows: Mapping[int, Mapping[str, Any]], oldest: int) -> None:
    """Put these minutes in place of what was kept of them, and forget those before ``oldest``."""
    await c.execute(delete(history).where(history.c.minute < oldest))
    if rows:
        kept = [{"minute": minute, "figures": figures} for minute, figures in rows.items()]
        await c.execute(insert_or_replace(c, history), kept)


async def probe(c: AsyncConnection, size: int) -> None:
    """Write so many bytes into a row that nobody reads and that ``keep`` forgets, in place of those before them."""
    await c.execute(insert_or_replace(c, history), {"minute": 0, "figures": {"probe": secrets.token_hex(size // 2)}})


async def since(c: AsyncConnection, minute: int) -> dict[int, dict[str, Any]]:
    """Oldest first."""
    query = select(history).where(history.c.minute >= minute).order_by(history.c.minute)
    return {row.minute: row.figures for row in await c.execute(query)}
