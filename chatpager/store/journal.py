"""The journal: tokens of live turns, on their way to the disk before they are on their way to a client."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, delete, literal_column, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import chain
from chatpager.store.database import insert_or_ignore
from chatpager.store.records import Journaled, JournalEntry
from chatpager.store.tables import LIVE, turn_journal, turns

T = TypeVar("T")
_SQLITE = sqlite.dialect()
MOST_ROWS = 128
"""Of one statement: with four values each, fewer than the 999 that any SQLite takes."""


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
    """``write``, in one go and without locks: SQLite has one writer. In few statements of many rows each, for a thread
    gives the interpreter away at every row that it steps to, and may wait for milliseconds until it has it again."""
    ids = list(_turns_of(entries))
    ended = {row[0] for some in _portions(ids) for row in c.execute(_ended_of(len(some)), some)}
    for some in _portions(_rows(entries, set(ids) - ended)):
        c.execute(_insert_of(len(some)), [value for row in some for value in row.values()])
    return ended


def _portions(of: list[T]) -> Iterator[list[T]]:
    """The whole in order, in portions of so few sizes that SQLite has a statement ready for each."""
    start = 0
    while left := len(of) - start:
        size = min(MOST_ROWS, 1 << (left.bit_length() - 1))
        yield of[start : start + size]
        start += size


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


@cache
def _ended_of(count: int) -> str:
    """Of so many turns those that are not live."""
    live = select(turns.c.id).where(turns.c.id == literal_column("column1"), LIVE).compile(dialect=_SQLITE)
    return f"SELECT column1 FROM (VALUES {', '.join(['(?)'] * count)}) WHERE NOT EXISTS ({live})"  # noqa: S608


@cache
def _insert_of(count: int) -> str:
    names = ", ".join(column.name for column in turn_journal.columns)
    rows = ", ".join([f"({', '.join('?' * len(turn_journal.columns))})"] * count)
    return f"INSERT OR IGNORE INTO {turn_journal.name} ({names}) VALUES {rows}"  # noqa: S608


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
