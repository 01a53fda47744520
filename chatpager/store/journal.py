"""The journal: tokens of live turns, on their way to the disk before they are on their way to a client."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, Text, bindparam, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import chain
from chatpager.store.database import insert_or_ignore
from chatpager.store.records import Journaled, JournalEntry
from chatpager.store.tables import LIVE, turn_journal, turns

_ENTRY = select(
    bindparam("turn_id", type_=Text),
    bindparam("first_index", type_=BigInteger),
    bindparam("token_ids", type_=LargeBinary),
    bindparam("text", type_=LargeBinary),
).where(exists().where(turns.c.id == bindparam("turn_id", type_=Text), LIVE))
"""Empty for a turn that has ended or is gone: it must not fail the other turns of its step."""


async def write(c: AsyncConnection, entries: Sequence[JournalEntry]) -> None:
    rows = [
        {
            "turn_id": entry.turn_id,
            "first_index": entry.first_index,
            "token_ids": chain.pack(entry.token_ids),
            "text": entry.text.encode(),
        }
        for entry in entries
    ]
    columns = [column.name for column in turn_journal.columns]
    await c.execute(insert_or_ignore(c, turn_journal).from_select(columns, _ENTRY), rows)


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
