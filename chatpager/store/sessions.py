"""A session is a tip in the tenant's tree of messages, and a name for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from sqlalchemy import bindparam, delete, exists, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import (
    ConversationChanged,
    ConversationInUse,
    ConversationNotFound,
    InvalidRequest,
    SessionBusy,
    TenantPaused,
    TooManyConversations,
    TooManyForks,
    shown,
)
from chatpager.store import journal, messages, searching
from chatpager.store.chain import MessageHash
from chatpager.store.database import NUL
from chatpager.store.records import DeletedSession, NewMessage, Session
from chatpager.store.tables import LIVE, limits, sessions, turns

# Made once, as in ``messages``.
_GET = select(sessions).where(sessions.c.id == bindparam("id"), sessions.c.tenant == bindparam("tenant"))
_GET_TO_CHANGE = _GET.with_for_update()
_HERE = update(sessions).where(sessions.c.id == bindparam("of_id"), sessions.c.tenant == bindparam("of_tenant"))
_IF_UNNAMED = _HERE.where(sessions.c.title == "")
_MOVE = _HERE.where(
    sessions.c.tip_hash.is_not_distinct_from(bindparam("expected")), sessions.c.owner_epoch == bindparam("epoch")
)


async def create(
    c: AsyncConnection, session: Session, said: Sequence[NewMessage] = (), most: int | None = None
) -> Session:
    """``said`` behind its tip, unless the tenant has ``most`` sessions or is paused. The transaction must keep out who
    deletes what is the tenant's, and who pauses it; and all its writers where there is a ``most``."""
    _check_title(session.title)
    paused = select(limits.c.paused_at).where(limits.c.kind == "tenant", limits.c.name == session.tenant)
    if (await c.execute(paused)).scalar() is not None:
        raise TenantPaused
    if most is not None:
        stored = select(func.count()).select_from(sessions).where(sessions.c.tenant == session.tenant)
        if ((await c.execute(stored)).scalar() or 0) >= most:
            raise TooManyConversations(f"this tenant has {most} conversations, as many as it may; delete some of them")
    if said:
        hashes = await messages.insert(c, session.tenant, session.tip_hash, said, session.created_at)
        session = replace(session, tip_hash=hashes[-1])
    fields = {column.name: getattr(session, column.name) for column in sessions.columns}
    await c.execute(insert(sessions).values(fields))
    return session


def _check_title(title: str) -> None:
    if NUL in title:
        raise InvalidRequest("a title holds no NUL character", param="title")


async def get(c: AsyncConnection, tenant: str, id: str, *, to_change: bool = False) -> Session:
    """The session; ``to_change`` keeps others from changing it until the transaction ends."""
    query = _GET_TO_CHANGE if to_change else _GET
    row = None if NUL in id else (await c.execute(query, {"id": id, "tenant": tenant})).one_or_none()
    if row is None:
        raise ConversationNotFound(f"no conversation {shown(id)}")
    return Session(**row._mapping)


async def page(
    c: AsyncConnection, tenant: str, limit: int, after: str | None, search: str | None = None
) -> tuple[list[Session], bool]:
    s = sessions.c
    query = select(sessions).where(s.tenant == tenant).order_by(s.updated_at.desc(), s.id.desc()).limit(limit + 1)
    if after is not None:
        updated_at, _, id = after.partition(".")
        if not (updated_at.isdecimal() and updated_at.isascii() and len(updated_at) < 19 and id and NUL not in id):
            raise InvalidRequest("is not a cursor of this list", param="after")
        query = query.where(tuple_(s.updated_at, s.id) < tuple_(int(updated_at), id))
    if search is not None:
        query = query.where(await searching.holds(c, tenant, search))
    rows = (await c.execute(query)).all()
    return [Session(**row._mapping) for row in rows[:limit]], len(rows) > limit


async def change(
    c: AsyncConnection,
    tenant: str,
    id: str,
    title: str | UnsetType,
    metadata: dict[str, Any] | UnsetType,
    parameters: dict[str, Any] | UnsetType,
    expected: Session | None = None,
) -> Session:
    """Where title and metadata are still those of ``expected``, if that is given."""
    given = {"title": title, "metadata": metadata, "parameters": parameters}
    values = {name: value for name, value in given.items() if value is not UNSET}
    if isinstance(title, str):
        _check_title(title)
    if expected is not None:
        now = await get(c, tenant, id, to_change=True)
        if (now.title, now.metadata) != (expected.title, expected.metadata):
            raise ConversationChanged
    if values and NUL not in id:
        await c.execute(_HERE, {"of_id": id, "of_tenant": tenant, **values})
    return await get(c, tenant, id)


async def fork(
    c: AsyncConnection,
    tenant: str,
    id: str,
    new_id: str,
    at: MessageHash | None,
    now: int,
    most: int | None = None,
    most_of_tenant: int | None = None,
) -> Session:
    """A session with the messages of ``id`` up to ``at`` (None: all), which may lie on a branch it has left. There are
    ``most`` forks of one root, whatever they were forked from in between, and ``most_of_tenant`` sessions; where
    either is given the transaction must keep the tenant's other writers out."""
    parent = await get(c, tenant, id)
    root = parent.root or parent.id
    if most is not None:
        forks = select(func.count()).select_from(sessions).where(sessions.c.root == root)
        if ((await c.execute(forks)).scalar() or 0) >= most:
            raise TooManyForks(f"there are {most} forks of conversation {root!r} and of its forks; delete some of them")
    if at is not None and not await _holds(c, parent, at):
        raise InvalidRequest(f"the conversation has no message {at}", param="at")
    child = Session(
        id=new_id,
        tenant=tenant,
        tip_hash=parent.tip_hash if at is None else at,
        forked_from=id,
        title=parent.title,
        metadata=parent.metadata,
        parameters=parent.parameters,
        created_at=now,
        updated_at=now,
        root=root,
    )
    return await create(c, child, most=most_of_tenant)


async def _holds(c: AsyncConnection, session: Session, at: MessageHash) -> bool:
    of_turns = turns.c.session_id == session.id
    tips = select(sessions.c.tip_hash).where(sessions.c.id == session.id)
    tree = messages.ancestors(
        tips.union(select(turns.c.input_tip).where(of_turns), select(turns.c.tip_hash).where(of_turns))
    )
    return bool((await c.execute(select(exists().where(tree.c.hash == at)))).scalar())


async def append(
    c: AsyncConnection, tenant: str, id: str, new: Sequence[NewMessage], now: int
) -> tuple[MessageHash, ...]:
    session = await get(c, tenant, id, to_change=True)
    if (await c.execute(select(exists().where(turns.c.session_id == id, LIVE)))).scalar():
        raise SessionBusy("a turn of the conversation is running; add to it when it has ended")
    hashes = await messages.insert(c, tenant, session.tip_hash, new, now)
    if hashes:
        await c.execute(update(sessions).where(sessions.c.id == id).values(tip_hash=hashes[-1], updated_at=now))
    return hashes


async def rewind(c: AsyncConnection, tenant: str, id: str, to: MessageHash) -> Session:
    """Move the tip to a message that the session holds. The transaction must keep the tenant's other writers out."""
    session = await get(c, tenant, id, to_change=True)
    if not await _holds(c, session, to):
        raise InvalidRequest(f"the conversation has no message {to}", param="to")
    return await _stand_at(c, session, to)


async def compact(
    c: AsyncConnection, tenant: str, id: str, expected: MessageHash | None, new: Sequence[NewMessage], now: int
) -> Session:
    """Move the tip to the end of a chain of its own. The transaction must keep the tenant's other writers out."""
    session = await get(c, tenant, id, to_change=True)
    if session.tip_hash != expected:
        raise SessionBusy("the conversation has gone on meanwhile")
    hashes = await messages.insert(c, tenant, None, new, now)
    return await _stand_at(c, session, hashes[-1] if hashes else None)


async def _stand_at(c: AsyncConnection, session: Session, tip: MessageHash | None) -> Session:
    """No message came in, so it counts as no activity; what nothing needs any more goes."""
    if (await c.execute(select(exists().where(turns.c.session_id == session.id, LIVE)))).scalar():
        raise SessionBusy("a turn of the conversation is running; change its past when it has ended")
    await c.execute(update(sessions).where(sessions.c.id == session.id).values(tip_hash=tip))
    await messages.sweep(c, [session.tip_hash])
    return await get(c, session.tenant, session.id)


async def move_tip(
    c: AsyncConnection,
    tenant: str,
    id: str,
    expected: MessageHash | None,
    tip: MessageHash,
    now: int,
    *,
    epoch: int,
    owner: tuple[str, int] | None = None,
) -> bool:
    """Compare-and-set of the tip, and of the owner and the epoch that it has from then on, if they are given."""
    values: dict[str, Any] = {"tip_hash": tip, "updated_at": now}
    if owner is not None:
        values |= {"owner": owner[0], "owner_epoch": owner[1]}
    here = {"of_id": id, "of_tenant": tenant, "expected": expected, "epoch": epoch}
    return (await c.execute(_MOVE, here | values)).rowcount == 1


async def name(c: AsyncConnection, tenant: str, id: str, title: str, *, over: bool) -> None:
    """Call a session ``title`` if it has no name, or whatever it is called where that goes ``over`` it."""
    _check_title(title)
    await c.execute(_HERE if over else _IF_UNNAMED, {"of_id": id, "of_tenant": tenant, "title": title})


async def remove(c: AsyncConnection, tenant: str, id: str, unused_since: int | None = None) -> DeletedSession:
    """Delete a session, its turns, and of its messages what nothing else needs; nothing where a turn of it began after
    ``unused_since``. Live turns go on without it.

    The transaction must keep the tenant's other writers out.
    """
    session = await get(c, tenant, id)
    t = turns.c
    wanted = select(t.id, t.input_tip, t.tip_hash, t.status, t.created_at).where(t.session_id == id)
    rows = (await c.execute(wanted)).all()
    if unused_since is not None and any(row.created_at > unused_since for row in rows):
        raise ConversationInUse
    await c.execute(update(turns).where(t.session_id == id, LIVE).values(session_id=None))
    await journal.clear_deleted(c, t.session_id == id)
    ended = await c.execute(delete(turns).where(t.session_id == id))
    await c.execute(delete(sessions).where(sessions.c.id == id))
    tips = {session.tip_hash, *(row.input_tip for row in rows), *(row.tip_hash for row in rows)}
    return DeletedSession(
        messages=await messages.sweep(c, tips),
        turns=ended.rowcount,
        live_turns=tuple(row.id for row in rows if row.status == "in_progress"),
    )
