"""The journal: tokens of live turns, on their way to the disk before they are on their way to a client."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import chain
from chatpager.store.database import insert_or_ignore
from chatpager.store.records import Journaled, JournalEntry
from chatpager.store.tables import LIVE, turn_journal, turns


async def write(c: AsyncConnection, entries: Sequence[JournalEntry]) -> set[str]:
    """Returns the turns that have ended or are gone, which must not fail the other turns of their step: nothing is
    written of them. The others do not end before the transaction does."""
    ids = _turns_of(entries)
    held = select(turns.c.id).where(turns.c.id.in_(ids), LIVE).order_by(turns.c.created_at, turns.c.id)
    live = set(await c.scalars(held.with_for_update(read=True, key_share=True)))
    if rows := _rows(entries, live):
        await c.execute(insert_or_ignore(c, turn_journal), rows)
    return ids - live


def write_sqlite(entries: Sequence[JournalEntry], c: sqlite3.Connection) -> set[str]:
    """``write``, in one go and without locks: SQLite has one writer."""
    ids = _turns_of(entries)
    live = {id for id in ids if c.execute(_IS_LIVE, {"id": id}).fetchone()}
    c.executemany(_INSERT, _rows(entries, live))
    return ids - live


def _turns_of(entries: Sequence[JournalEntry]) -> set[str]:
    return {entry.turn_id for entry in entries}


def _rows(entries: Sequence[JournalEntry], live: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "turn_id": entry.turn_id,
            "first_index": entry.first_index,
            "token_ids": chain.pack(entry.token_ids),
            "text": entry.text.encode(),
        }
        for entry in entries
        if entry.turn_id in live
    ]


_SQLITE = sqlite.dialect(paramstyle="named")
_IS_LIVE = str(select(turns.c.id).where(turns.c.id == bindparam("id"), LIVE).compile(dialect=_SQLITE))
_INSERT = str(sqlite.insert(turn_journal).on_conflict_do_nothing().compile(dialect=_SQLITE))


async def read(c: AsyncConnection, turn_id: str) -> Journaled:
    """What a turn's journal holds from its first token on, up to the first gap."""
    query = select(turn_journal).where(turn_journal.c.turn_id == turn_id).order_by(turn_journal.c.first_index)
    token_ids: list[int] = []
    text = b""
    for row in await c.execute(query):
        if row.first_index != len(token_ids):
            break
        token_ids += chain.unpack(row.token_ids)
        text += row.text
    return Journaled(token_ids=tuple(token_ids), text=text.decode())


async def clear(c: AsyncConnection, of: ColumnElement[bool]) -> None:
    """Forget the journal of the turns for which ``of`` holds."""
    await c.execute(delete(turn_journal).where(turn_journal.c.turn_id.in_(select(turns.c.id).where(of))))


async def clear_ownerless(c: AsyncConnection) -> None:
    """Forget what came in just as its turn ended or was deleted."""
    await c.execute(delete(turn_journal).where(turn_journal.c.turn_id.not_in(select(turns.c.id).where(LIVE))))
