"""The journal: tokens of live turns, on their way to the disk before they are on their way to a client."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import chain
from chatpager.store.database import insert_or_ignore
from chatpager.store.records import Journaled, JournalEntry
from chatpager.store.tables import LIVE, turn_journal, turns


async def write(c: AsyncConnection, entries: Sequence[JournalEntry]) -> set[str]:
    """Returns the turns that have ended or are gone, which must not fail the other turns of their step: nothing is
    written of them. The others do not end before the transaction does."""
    ids = {entry.turn_id for entry in entries}
    held = select(turns.c.id).where(turns.c.id.in_(ids), LIVE).order_by(turns.c.created_at, turns.c.id)
    live = set(await c.scalars(held.with_for_update(read=True, key_share=True)))
    rows = [
        {
            "turn_id": entry.turn_id,
            "first_index": entry.first_index,
            "token_ids": chain.pack(entry.token_ids),
            "text": entry.text.encode(),
        }
        for entry in entries
        if entry.turn_id in live
    ]
    if rows:
        await c.execute(insert_or_ignore(c, turn_journal), rows)
    return ids - live


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
