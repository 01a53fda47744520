"""Messages: immutable rows, written once under their hash, read as chains, swept when nothing needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import CTE, ColumnElement, Select, SelectBase, bindparam, case, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import NotFound
from chatpager.store import chain
from chatpager.store.chain import MessageHash, Names
from chatpager.store.database import insert_or_ignore
from chatpager.store.records import Message, NewMessage
from chatpager.store.tables import messages, sessions, turns
from chatpager.store.visits import aside

_BATCH = 100
"""Hashes in one query. Of ``match`` nearly always the first finds it: all is stored but the last message."""


MANY = 256
"""Messages: where there are more, they are hashed and read beside the event loop, and written so many at a time."""
_NAMES = tuple(column.name for column in messages.columns)
# What every turn needs is made once: to make a statement costs more than to run it.
_ONE = (messages.c.hash == bindparam("hash"), messages.c.tenant == bindparam("tenant"))
_NAMES_OF = select(messages.c.hash, messages.c.content_hash).where(*_ONE)


def _chain() -> CTE:
    """The rows of the chain that ends at the ``_ONE``."""
    walk = select(messages).where(*_ONE).cte("walk", recursive=True)
    return walk.union_all(select(messages).join(walk, messages.c.hash == walk.c.parent_hash))


def _in_one_row(chain: CTE) -> Select[Any]:
    """The same as JSON: at every row of SQLite's a thread gives the interpreter away, and waits for it behind that."""
    ids = chain.c.token_ids
    fields = [case((ids.is_not(None), func.hex(ids))) if column is ids else column for column in chain.c]
    return select(func.json_group_array(func.json_array(*fields)))


_CHAIN = select(_chain())
_CHAIN_IN_ONE_ROW = _in_one_row(_chain())


class _Row(msgspec.Struct, array_like=True, gc=False):
    """Of ``_CHAIN_IN_ONE_ROW``, in the order of the table's columns."""

    hash: str
    parent_hash: str | None
    content_hash: str
    tenant: str
    role: str
    content: str
    hex_ids: str | None
    vocab: str | None
    status: str
    created_at: int

    @property
    def token_ids(self) -> bytes | None:
        return None if self.hex_ids is None else bytes.fromhex(self.hex_ids)


_rows = msgspec.json.Decoder(list[_Row])


def batched(hashes: Sequence[MessageHash]) -> Iterator[Sequence[MessageHash]]:
    return (hashes[start : start + _BATCH] for start in range(0, len(hashes), _BATCH))


async def insert(
    c: AsyncConnection, tenant: str, parent: MessageHash | None, new: Sequence[NewMessage], now: int
) -> tuple[MessageHash, ...]:
    """Store ``new`` as a chain behind ``parent``; rows that exist are shared. Returns the hashes, first to last.

    Raises:
        NotFound: the tenant has no message ``parent``.
    """
    above = await _names(c, tenant, parent) if parent is not None else None
    chained = partial(_chained, tenant, above, new, now)
    rows = await aside(chained) if len(new) > MANY else chained()
    for start in range(0, len(rows), MANY):
        await c.execute(insert_or_ignore(c, messages), rows[start : start + MANY])
    return tuple(row["hash"] for row in rows)


def _chained(tenant: str, above: Names | None, new: Sequence[NewMessage], now: int) -> list[dict[str, Any]]:
    """The rows of ``new``, behind the message with the names ``above``."""
    rows: list[dict[str, Any]] = []
    for message in new:
        assert (message.token_ids is None) == (message.vocab is None), "token ids and their vocab are known together"
        parent_hash = above.hash if above else None
        fields: dict[str, Any] = {
            "role": message.role,
            "content": chain.canonical(message.content),
            "status": message.status,
            "vocab": message.vocab,
            "token_ids": None if message.token_ids is None else chain.pack(message.token_ids),
        }
        above = chain.name(tenant, above, **fields)
        fields["content"] = fields["content"].decode()
        rows.append({**fields, **above._asdict(), "parent_hash": parent_hash, "tenant": tenant, "created_at": now})
    return rows


async def _names(c: AsyncConnection, tenant: str, hash: MessageHash) -> Names:
    row = (await c.execute(_NAMES_OF, {"hash": hash, "tenant": tenant})).one_or_none()
    if row is None:
        raise NotFound(f"no message {hash}")
    return Names(*row)


async def load(c: AsyncConnection, tenant: str, tip: MessageHash | None) -> list[Message]:
    """The chain that ends at ``tip``, root first; of None, nothing.

    Raises:
        NotFound: the tenant has no message ``tip``.
    """
    if tip is None:
        return []
    found = await _found(c, tenant, tip)
    read = partial(_read, found, tip)
    return await aside(read) if len(found) > MANY else read()


async def is_stored(c: AsyncConnection, tenant: str, hash: MessageHash) -> bool:
    query = select(messages.c.hash).where(messages.c.hash == hash, messages.c.tenant == tenant)
    return (await c.execute(query)).first() is not None


async def _found(c: AsyncConnection, tenant: str, tip: MessageHash) -> Sequence[Any]:
    """The rows of the chain that ends at ``tip``, in any order."""
    of = {"hash": tip, "tenant": tenant}
    if c.dialect.name == "sqlite":
        return _rows.decode((await c.execute(_CHAIN_IN_ONE_ROW, of)).scalar_one())
    rows: Sequence[Any] = (await c.execute(_CHAIN, of)).all()
    return rows


def _root_first(found: Sequence[Any], tip: MessageHash) -> list[Any]:
    by_hash = {row.hash: row for row in found}
    if tip not in by_hash:
        raise NotFound(f"no message {tip}")
    upwards = [by_hash[tip]]
    while (parent := by_hash.get(upwards[-1].parent_hash)) is not None:
        upwards.append(parent)
    return upwards[::-1]


def _read(found: Sequence[Any], tip: MessageHash) -> list[Message]:
    return [_record(row) for row in _root_first(found, tip)]


def _record(row: Any) -> Message:
    fields = {name: getattr(row, name) for name in _NAMES}
    fields["content"] = msgspec.json.decode(fields["content"])
    fields["token_ids"] = None if fields["token_ids"] is None else chain.unpack(fields["token_ids"])
    return Message(**fields)


async def match(c: AsyncConnection, tenant: str, sent: Sequence[NewMessage]) -> list[Message]:
    """The longest stored chain whose contents are those of the first messages of ``sent``, root first.

    Of several (the same words with other token ids, say) it is the one whose last message is the newest. It is one
    chain: a content hash stands for every message up to it, so whatever has that hash has those messages above it.
    """
    named = partial(_content_names, tenant, sent)
    wanted = await aside(named) if len(sent) > MANY else named()
    m = messages.c
    for names in batched(wanted[::-1]):
        place = {name: -i for i, name in enumerate(names)}
        query = select(m.hash, m.content_hash, m.created_at).where(m.content_hash.in_(list(place)), m.tenant == tenant)
        found = (await c.execute(query)).all()
        if found:
            best = max(found, key=lambda row: (place[row.content_hash], row.created_at, row.hash))
            return await load(c, tenant, best.hash)
    return []


def _content_names(tenant: str, sent: Sequence[NewMessage]) -> list[MessageHash]:
    above, names = chain.root(tenant), list[MessageHash]()
    for message in sent:
        above = chain.content_name(above, message.role, chain.canonical(message.content))
        names.append(above)
    return names


async def verify(c: AsyncConnection, tenant: str, tip: MessageHash) -> list[MessageHash]:
    """Derive every name of a chain again from what the rows hold; returns the hashes of rows that do not agree."""
    wrong: list[MessageHash] = []
    above: Names | None = None
    for row in _root_first(await _found(c, tenant, tip), tip):
        parent_hash = above.hash if above else None
        fields = {"status": row.status, "vocab": row.vocab, "token_ids": row.token_ids}
        derived = chain.name(tenant, above, role=row.role, content=row.content.encode(), **fields)
        above = Names(row.hash, row.content_hash)
        if derived != above or (row.parent_hash, row.tenant) != (parent_hash, tenant):
            wrong.append(row.hash)
    return wrong


def ancestors(tips: SelectBase) -> CTE:
    """The hashes in the one column of ``tips``, and those of every message above them.

    Each step looks up parents by hash, one by one, and no planner can make a join of whole tables of it.
    """
    tip = tips.subquery("tip").columns[0]
    walk = select(tip.label("hash"), _parent_of(tip)).cte("ancestors", recursive=True)
    parent = walk.c.parent_hash
    return walk.union(select(parent, _parent_of(parent)).where(parent.is_not(None)))


def _parent_of(hash: ColumnElement[Any]) -> ColumnElement[Any]:
    above = messages.alias("above")
    return select(above.c.parent_hash).where(above.c.hash == hash).scalar_subquery().label("parent_hash")


async def sweep(c: AsyncConnection, tips: Iterable[MessageHash | None]) -> int:
    """Delete of the chains that end at ``tips`` what no session, no turn and no other message needs; returns how much.

    What is to go are whole branches, so it goes from their ends, which are among the tips, up to the first message that
    something else needs. The transaction must keep the tenant's other writers out.
    """
    m = messages.c
    ends: list[MessageHash] = []
    for some in batched([tip for tip in tips if tip is not None]):
        ends += (await c.execute(select(m.hash).where(m.hash.in_(some), *_needed_by_nothing()))).scalars()
    deleted = 0
    for end in ends:
        branch = select(m.hash, m.parent_hash).where(m.hash == end).cte("branch", recursive=True)
        upwards = select(m.hash, m.parent_hash).join(branch, m.hash == branch.c.parent_hash)
        branch = branch.union_all(upwards.where(*_needed_by_nothing(but=branch.c.hash)))
        gone = delete(messages).where(m.hash.in_(select(branch.c.hash))).returning(m.hash)
        deleted += len((await c.execute(gone)).all())
    return deleted


def _needed_by_nothing(but: ColumnElement[Any] | None = None) -> list[ColumnElement[bool]]:
    """Of a row of ``messages``: no session or turn stands on it, and no message but ``but`` has it as its parent."""
    hash, child = messages.c.hash, messages.alias("child")
    others = exists().where(child.c.parent_hash == hash)
    return [
        ~exists().where(sessions.c.tip_hash == hash),
        ~exists().where(turns.c.input_tip == hash),
        ~exists().where(turns.c.tip_hash == hash),
        ~(others if but is None else others.where(child.c.hash != but)),
    ]
