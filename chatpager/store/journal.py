"""The journal: tokens of live turns, on their way to the disk before they are on their way to a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, bindparam, delete, exists, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import chain, step_log
from chatpager.store.database import insert_or_ignore
from chatpager.store.ownership import IS_OWN
from chatpager.store.records import Journaled, JournalEntry
from chatpager.store.step_log import Row
from chatpager.store.tables import LIVE, STEP, turn_journal, turns

_STEPS = turn_journal.c.turn_id == STEP


async def write(c: AsyncConnection, entries: Sequence[JournalEntry], owner: str) -> set[str]:
    """Returns the turns that have ended, are gone or not the ``owner``'s, which must not fail the other turns of their
    step: nothing is written of them. The others do not end before the transaction does. (SQLite has a ``StepLog``.)"""
    ids = {entry.turn_id for entry in entries}
    held = select(turns.c.id).where(turns.c.id.in_(ids), LIVE, IS_OWN).order_by(turns.c.created_at, turns.c.id)
    live = set(await c.scalars(held.with_for_update(read=True, key_share=True, of=turns), {"owner": owner}))
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


async def steps(c: AsyncConnection) -> dict[str, list[Row]]:
    """By turn, what has no row of its own yet, in order."""
    held: dict[str, list[Row]] = {}
    if c.dialect.name == "sqlite":
        steps = await c.scalars(select(turn_journal.c.token_ids).where(_STEPS).order_by(turn_journal.c.first_index))
        for row in step_log.unpacked(steps):
            held.setdefault(row.turn_id, []).append(row)
    return held


async def read(c: AsyncConnection, turn_id: str, steps: Mapping[str, Sequence[Row]]) -> Journaled:
    """What a turn's journal holds from its first token on, up to the first gap; ``steps`` are those of the same
    transaction."""
    query = select(turn_journal).where(turn_journal.c.turn_id == turn_id).order_by(turn_journal.c.first_index)
    own = [Row(*row) for row in await c.execute(query)]
    token_ids: list[int] = []
    text, next = b"", 0
    for row in [*own, *steps.get(turn_id, ())]:
        if row.first_index > len(token_ids):
            break
        if row.first_index >= next:  # else it was read: what has a row of its own is in steps for a while
            token_ids += chain.unpack(row.token_ids)
            text, next = text + row.text, row.next
    return Journaled(token_ids=tuple(token_ids), text=text.decode())


async def clear(c: AsyncConnection, of: ColumnElement[bool]) -> None:
    """Forget the journal of the turns for which ``of`` holds, which have ended. What the last steps hold of them goes
    with these steps; at once where no turn is live."""
    await c.execute(delete(turn_journal).where(turn_journal.c.turn_id.in_(select(turns.c.id).where(of))))
    if c.dialect.name == "sqlite":
        # Of a turn without a session ``of`` may be NULL, and so would "not" be.
        await c.execute(delete(turn_journal).where(_STEPS, ~exists().where(LIVE, of.is_not(true()))))


async def clear_turn(c: AsyncConnection, turn_id: str) -> None:
    """``clear`` of one turn, in one statement: each is a way from its thread to SQLite and back."""
    await c.execute(_CLEAR_ONE_AND_STEPS if c.dialect.name == "sqlite" else _CLEAR_ONE, {"id": turn_id})


_OF_ONE = turn_journal.c.turn_id == bindparam("id")
_CLEAR_ONE = delete(turn_journal).where(_OF_ONE)
_ALONE = ~exists().where(LIVE, turns.c.id != bindparam("id"))
_CLEAR_ONE_AND_STEPS = delete(turn_journal).where(_OF_ONE | (_STEPS & _ALONE))


async def clear_deleted(c: AsyncConnection, of: ColumnElement[bool]) -> None:
    """Forget the journal of turns that are being deleted, whoever else has tokens in the same steps."""
    await clear(c, of)
    if c.dialect.name != "sqlite":
        return
    t = turn_journal.c
    if rows := (await c.execute(select(t.first_index, t.token_ids).where(_STEPS))).all():
        deleted = set(await c.scalars(select(turns.c.id).where(of)))
        for number, held in rows:
            if (kept := step_log.without(held, deleted)) is not None:
                await c.execute(update(turn_journal).where(_STEPS, t.first_index == number).values(token_ids=kept))


async def clear_ownerless(c: AsyncConnection) -> None:
    """Forget what came in just as its turn ended or was deleted."""
    live = select(turns.c.id).where(LIVE)
    await c.execute(delete(turn_journal).where(turn_journal.c.turn_id.not_in(live), ~_STEPS))
