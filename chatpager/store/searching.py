"""Finding sessions by what was said in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.chain import MessageHash
from chatpager.store.records import text_of
from chatpager.store.tables import messages, sessions
from chatpager.store.visits import aside

MOST_FOUND = 1000
"""Messages that are looked at for one search, the newest first."""


async def holds(c: AsyncConnection, tenant: str, words: str) -> ColumnElement[bool]:
    """Whether a row of ``sessions`` has ``words`` in its title, or in a message of its conversation. Capitals make no
    difference in ASCII."""
    in_title = sessions.c.title.icontains(words, autoescape=True)
    return or_(in_title, _stands_on(await _said(c, tenant, words)))


async def _said(c: AsyncConnection, tenant: str, words: str) -> list[MessageHash]:
    """Messages whose text has the words; their rows are JSON, whose names and marks are no text."""
    written = msgspec.json.encode(words).decode()[1:-1]
    m = messages.c
    pattern = func.lower(f'%"text":"%{_escaped(written)}%')
    somewhere = func.lower(m.content).like(pattern, escape="/")
    query = select(m.hash, m.content).where(m.tenant == tenant, somewhere)
    rows = (await c.execute(query.order_by(m.created_at.desc(), m.hash).limit(MOST_FOUND))).all()
    return await aside(_with, words.lower(), rows)


def _escaped(words: str) -> str:
    """For a pattern in which / stands before a mark that means itself."""
    return words.replace("/", "//").replace("%", "/%").replace("_", "/_")


def _with(words: str, rows: Sequence[Any]) -> list[MessageHash]:
    return [row.hash for row in rows if words in text_of(msgspec.json.decode(row.content)).lower()]


def _stands_on(hashes: list[MessageHash]) -> ColumnElement[bool]:
    """Whether a session's tip is one of these messages or stands below one."""
    if not hashes:
        return false()
    below = select(messages.c.hash).where(messages.c.hash.in_(hashes)).cte("below", recursive=True)
    below = below.union(select(messages.c.hash).join(below, messages.c.parent_hash == below.c.hash))
    return sessions.c.tip_hash.in_(select(below.c.hash))
