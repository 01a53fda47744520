"""Which conversations there are, for who keeps something of each beside the database."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store.records import TurnAlone
from chatpager.store.tables import sessions, turns

PAGE = 5000
"""Rows that are in memory at a time."""


async def unknown(c: AsyncConnection, names: Collection[str], name_of: Callable[[str, str], str]) -> set[str]:
    """Those of ``names`` that ``name_of`` makes of no session's tenant and id, nor of those of a turn without a session
    or of the turn before that: one that was deleted may have given its conversation the name."""
    left = set(names)
    s, t = sessions.c, turns.c
    named = select(s.tenant, s.id, literal(None)), s.id
    alone = select(t.tenant, t.id, t.previous_turn_id).where(t.session_id.is_(None)), t.id
    for query, id in (named, alone):
        after = ""
        while left:
            rows = (await c.execute(query.where(id > after).order_by(id).limit(PAGE))).all()
            left.difference_update(name_of(row[0], called) for row in rows for called in row[1:] if called)
            if len(rows) < PAGE:
                break
            after = rows[-1][1]
    return left


async def alone(c: AsyncConnection, most: int) -> list[TurnAlone]:
    """The latest turns without a session, in the order in which they began."""
    t = turns.c
    columns = t.id, t.tenant, t.previous_turn_id, t.parent_hash, t.input_tip, t.tip_hash, t.status
    latest = select(*columns).where(t.session_id.is_(None)).order_by(t.created_at.desc(), t.completed_at.desc())
    return [TurnAlone(*row) for row in reversed((await c.execute(latest.limit(most))).all())]
