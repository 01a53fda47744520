"""Turns: where an answer came from. A turn begins in one transaction with its input and ends in one with its answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import UNSET
from sqlalchemy import ColumnElement, bindparam, case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import (
    IdempotencyConflict,
    NotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
    shown,
)
from chatpager.store import journal, messages, ownership, sessions, tables
from chatpager.store.chain import MessageHash, canonical
from chatpager.store.database import NUL, insert_or_ignore
from chatpager.store.records import (
    BegunTurn,
    Content,
    Finished,
    FinishedTurn,
    Journaled,
    NewMessage,
    NewTurn,
    ReadContent,
    Recovered,
    TipMove,
    Turn,
    text_content,
)
from chatpager.store.tables import LIVE, responses, turns
from chatpager.store.visits import aside

# Made once, as in ``messages``.
_FIND = select(turns).where(turns.c.id == bindparam("id"), turns.c.tenant == bindparam("tenant"))
_FIND_TO_CHANGE = _FIND.with_for_update()
_END = update(turns).where(turns.c.id == bindparam("of_id"))
_ANSWER = insert(responses)


async def begin(
    c: AsyncConnection, new: NewTurn, owner: str, stored: tuple[MessageHash, ...] | None = None
) -> BegunTurn:
    """Store the input and the turn, and move the session to it, which is the ``owner``'s from then on. Where
    ``expected_tip`` leaves a branch behind, the transaction must keep the tenant's other writers out. ``stored``: its
    messages, where another turn of this transaction began with the same.

    Raises:
        ConversationNotFound, PreviousResponseNotFound: what the turn follows is not the tenant's, or was deleted.
        SessionBusy: the session does not stand at ``expected_tip``, or another turn of it runs.
        IdempotencyConflict: ``client_key`` came before, with another request.
    """
    if (known := await _known(c, new)) is not None:
        return known
    if new.previous_turn_id is not None and await _find(c, new.tenant, new.previous_turn_id) is None:
        raise PreviousResponseNotFound(f"no response {shown(new.previous_turn_id)}", param="previous_response_id")
    read, epoch = 0, 0
    if new.session_id is not None:
        session = await sessions.get(c, new.tenant, new.session_id)
        read, epoch = session.owner_epoch, session.owner_epoch + (session.owner != owner)
    try:
        hashes = stored or await messages.insert(c, new.tenant, new.parent_hash, new.messages, new.now)
    except NotFound as error:
        raise PreviousResponseNotFound("what this follows was deleted meanwhile; send it whole") from error
    turn = _opened(new, (new.parent_hash, *hashes)[-1], owner, epoch)
    fields = {column.name: getattr(turn, column.name) for column in turns.columns}
    if (await c.execute(insert_or_ignore(c, turns), fields)).rowcount == 0:
        return await _stood_in_the_way(c, new)
    if new.session_id is not None:
        expected = new.parent_hash if new.expected_tip is UNSET else new.expected_tip
        if not await sessions.move_tip(
            c, new.tenant, new.session_id, expected, turn.input_tip, new.now, epoch=read, owner=(owner, epoch)
        ):
            raise SessionBusy("the conversation has gone on meanwhile")
        if new.title:
            await sessions.name(c, new.tenant, new.session_id, new.title, over=new.renames)
        if leaves_a_branch(new):
            await messages.sweep(c, [expected])
    return BegunTurn(turn=turn, messages=hashes)


def leaves_a_branch(new: NewTurn) -> bool:
    """Whether the session's old tip is no part of the turn's chain."""
    return new.session_id is not None and new.expected_tip not in (UNSET, None, new.parent_hash)


def _opened(new: NewTurn, input_tip: MessageHash | None, owner: str, epoch: int) -> Turn:
    assert input_tip is not None, "a turn answers at least one message"
    return Turn(
        id=new.id,
        tenant=new.tenant,
        session_id=new.session_id,
        previous_turn_id=new.previous_turn_id,
        parent_hash=new.parent_hash,
        input_tip=input_tip,
        tip_hash=None,
        kind=new.kind,
        status="in_progress",
        model=new.model,
        vocab=new.vocab,
        client_key=new.client_key,
        request=new.request,
        usage=None,
        receipt=None,
        timings=None,
        error=None,
        created_at=new.now,
        completed_at=None,
        owner=owner,
        owner_epoch=epoch,
    )


async def _known(c: AsyncConnection, new: NewTurn) -> BegunTurn | None:
    """The turn that ``client_key`` began before."""
    turn = None if new.client_key is None else await of_key(c, new.tenant, new.client_key)
    if turn is None:
        return None
    hashes: list[MessageHash] = []
    contents: list[tuple[str, bytes]] = []
    for message in reversed(await messages.load(c, new.tenant, turn.input_tip)):
        if message.hash == turn.parent_hash:
            break
        hashes.insert(0, message.hash)
        contents.insert(0, (message.role, canonical(message.content)))
    sent = [(message.role, canonical(message.content)) for message in new.messages]
    same = sent == contents and canonical([new.request]) == canonical([turn.request])
    if digest := new.request.get("sent"):  # of all that was asked: by now more of it may be stored already
        same = digest == turn.request.get("sent")
    if not same or turn.session_id != new.session_id:
        raise IdempotencyConflict("this key came before with another request")
    return BegunTurn(turn=turn, messages=tuple(hashes), duplicate=True)


async def _stood_in_the_way(c: AsyncConnection, new: NewTurn) -> BegunTurn:
    """What to answer when a row kept the turn's from being inserted: its twin, that came in at the same time, its
    namesake, or the session's live turn."""
    if (known := await _known(c, new)) is not None:
        return known
    if (await c.execute(select(turns.c.id).where(turns.c.id == new.id))).first() is not None:
        raise IdempotencyConflict(f"there is a turn {new.id!r} already")
    raise SessionBusy("another turn of the conversation is running")


async def finish(c: AsyncConnection, done: FinishedTurn, owner: str) -> Finished:
    """Store the answer, the turn's end and its response, and move the session's tip if it is where the turn left it;
    nothing of a turn that is not the ``owner``'s any more."""
    turn = await _find(c, done.tenant, done.id, to_change=True)
    if turn is None:
        return Finished(tip_hash=None, tip="turn_gone", status=None)
    if not await ownership.is_own(c, turn.id, owner):
        ended = None if turn.status == "in_progress" else turn.status
        return Finished(tip_hash=turn.tip_hash, tip="turn_taken", status=ended)
    if turn.status != "in_progress":
        return Finished(tip_hash=turn.tip_hash, tip="already_finished", status=turn.status)
    answer = [] if done.message is None else [done.message]
    tip_hash = next(iter(await messages.insert(c, done.tenant, turn.input_tip, answer, done.now)), None)
    ending = {"status": done.status, "tip_hash": tip_hash, "completed_at": done.now}
    facts = {"usage": done.usage, "receipt": done.receipt, "timings": done.timings, "error": done.error}
    await c.execute(_END, {"of_id": done.id, **ending, **facts})
    if done.response is not None:
        await c.execute(_ANSWER, {"turn_id": done.id, "body": done.response})
    await journal.clear_turn(c, done.id)
    moved = await _advance(c, turn, tip_hash or turn.input_tip, done.now)
    return Finished(tip_hash=tip_hash, tip=moved, status=done.status)


async def _advance(c: AsyncConnection, turn: Turn, tip: MessageHash, now: int) -> TipMove:
    if turn.session_id is None:
        return "no_session"
    moved = await sessions.move_tip(c, turn.tenant, turn.session_id, turn.input_tip, tip, now, epoch=turn.owner_epoch)
    return "moved" if moved else "session_moved"


def text_told(turn: Turn, kept: Journaled) -> Content:
    """The text of an answer, without what else there is to it."""
    return text_content(kept.text)


async def recover(
    c: AsyncConnection, owner: str, now: int, ids: Collection[str] | None = None, content: ReadContent = text_told
) -> list[Recovered]:
    """End live turns, the ``owner``'s and nobody's, as ``interrupted``, their answers what the journal holds; the
    second time there is none."""
    done = []
    # Held from here on: what a server that lost its claim is just writing of them is waited for, and read.
    named = [] if ids is None else [turns.c.id.in_(ids)]
    held = await _ordered(c, LIVE, ownership.may_be_ended(c, owner), *named, to_change=True)
    steps = await journal.steps(c) if held else {}
    for turn in held:
        await ownership.take_over(c, turn, owner)
        partial = await journal.read(c, turn.id, steps)
        message = None
        if partial.token_ids:
            message = NewMessage(
                role="assistant",
                content=await aside(content, turn, partial),
                status="interrupted",
                vocab=turn.vocab,
                token_ids=partial.token_ids,
            )
        ending = FinishedTurn(id=turn.id, tenant=turn.tenant, status="interrupted", message=message, now=now)
        end = await finish(c, ending, owner)
        done.append(
            Recovered(
                turn_id=turn.id,
                tenant=turn.tenant,
                session_id=turn.session_id,
                tip_hash=end.tip_hash,
                tip=end.tip,
                tokens=len(partial.token_ids),
            )
        )
    await journal.clear_ownerless(c)
    return done


async def _find(c: AsyncConnection, tenant: str, id: str, *, to_change: bool = False) -> Turn | None:
    query = _FIND_TO_CHANGE if to_change else _FIND
    row = None if NUL in id else (await c.execute(query, {"id": id, "tenant": tenant})).one_or_none()
    return None if row is None else Turn(**row._mapping)


async def get(c: AsyncConnection, tenant: str, id: str) -> Turn:
    turn = await _find(c, tenant, id)
    if turn is None:
        raise ResponseNotFound(f"no response {shown(id)}")
    return turn


async def of_key(c: AsyncConnection, tenant: str, client_key: str) -> Turn | None:
    query = select(turns).where(turns.c.tenant == tenant, turns.c.client_key == client_key)
    row = (await c.execute(query)).one_or_none()
    return None if row is None else Turn(**row._mapping)


async def body(c: AsyncConnection, tenant: str, id: str) -> dict[str, Any] | None:
    await get(c, tenant, id)
    return (await c.execute(select(responses.c.body).where(responses.c.turn_id == id))).scalar_one_or_none()


async def bodies(c: AsyncConnection, tenant: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    query = select(responses).join(turns).where(turns.c.tenant == tenant, turns.c.id.in_(ids))
    return {row.turn_id: row.body for row in await c.execute(query)}


async def remove(c: AsyncConnection, tenant: str, id: str) -> int:
    """Delete a turn and, of its messages, what nothing else needs; returns how many those were.

    The transaction must keep the tenant's other writers out.
    """
    turn = await get(c, tenant, id)
    await journal.clear_deleted(c, turns.c.id == id)
    await c.execute(delete(turns).where(turns.c.id == id))
    return await messages.sweep(c, [turn.input_tip, turn.tip_hash])


async def live(c: AsyncConnection, tenant: str) -> list[Turn]:
    return await _ordered(c, turns.c.tenant == tenant, LIVE)


async def of_answer(c: AsyncConnection, tenant: str, answer: MessageHash) -> Turn | None:
    found = await _ordered(c, turns.c.tip_hash == answer, turns.c.tenant == tenant)
    return found[-1] if found else None


async def of_session(c: AsyncConnection, tenant: str, session_id: str, latest: int | None = None) -> list[Turn]:
    """The session's turns, and those that led to a message of its chain before it was forked; oldest first. No more
    than the ``latest`` are read."""
    await sessions.get(c, tenant, session_id)
    mine = turns.c.session_id == session_id
    chain = messages.ancestors(select(tables.sessions.c.tip_hash).where(tables.sessions.c.id == session_id))
    end = func.coalesce(turns.c.tip_hash, case((turns.c.status == "completed", turns.c.input_tip)))
    place = func.row_number().over(partition_by=end, order_by=_LATEST_FIRST).label("place")
    elsewhere = turns.c.session_id.is_distinct_from(session_id)
    own_ends = select(end).where(mine, end.is_not(None))
    found = select(turns.c.id, place).where(end.in_(select(chain.c.hash)), end.not_in(own_ends), elsewhere).subquery()
    inherited = turns.c.id.in_(select(found.c.id).where(found.c.place == 1))
    both = [turn for one in (mine, inherited) for turn in await _latest(c, one, latest)]
    return sorted(both, key=lambda turn: (turn.created_at, turn.id))[-latest if latest else 0 :]


_LATEST_FIRST = (turns.c.created_at.desc(), turns.c.id.desc())


async def _latest(c: AsyncConnection, condition: ColumnElement[bool], most: int | None) -> list[Turn]:
    rows = await c.execute(select(turns).where(condition).order_by(*_LATEST_FIRST).limit(most))
    return [Turn(**row._mapping) for row in rows]


async def _ordered(c: AsyncConnection, *conditions: ColumnElement[bool], to_change: bool = False) -> list[Turn]:
    query = select(turns).where(*conditions).order_by(turns.c.created_at, turns.c.id)
    return [Turn(**row._mapping) for row in await c.execute(query.with_for_update() if to_change else query)]
