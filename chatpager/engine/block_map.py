"""What KV blocks are at one moment, for who draws them: of a map only those that changed, of one block everything.

The pool marks a block whenever what it is may have become another thing; a mark is an assignment, whether anybody draws
or not. Who draws takes marks away, as many at a time as a step can spare; each of several has marks of its own.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
import numpy as np

from chatpager.engine.block import Block, BlockState, EvictionClass
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import Head
from chatpager.engine.leases import LeaseBook

MOST_SESSIONS = 8
MOST_TAKERS = 16
"""Who have marks of their own, a byte a block. Of more, who took some longest ago is told of every block again."""


class BlockCode(IntEnum):
    """In the order of what it takes to get the block; the cached ones that nobody holds as ``EvictionClass``."""

    FREE = 0
    ACTIVE = 1
    """Held, its content without a name."""
    SHARED = 2
    """Held, and found by who comes with the same."""
    DEAD = 3
    COLD = 4
    TAIL = 5
    IDLE = 6
    SOFT = 7
    HARD = 8


class BlockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One block. ``unused_seconds`` since it was named or let go; ``sessions`` are owners whose conversation contains
    it, at most ``MOST_SESSIONS`` of ``heads``; ``hash`` and the rest of its chain are missing where it has no name."""

    id: int
    code: str
    hash: str | None
    parent: int | None
    depth: int
    children: int
    tokens: int
    refs: int
    pins: int
    hits: int
    heads: int
    soft_leases: int
    hard_leases: int
    unused_seconds: float
    sessions: list[str]


def code_of(block: Block) -> BlockCode:
    if block.state is BlockState.FREE:
        return BlockCode.FREE
    if block.state is BlockState.OWNED:
        return BlockCode.ACTIVE
    if block.held:
        return BlockCode.SHARED
    return CODES[block.eviction_class]


CODES = {kind: BlockCode[kind.name] for kind in EvictionClass}


def take_changes(pool: BlockPool, most: int, by: str = "") -> list[tuple[int, int, int]]:
    """(block, code, its parent or 0) of at most so many blocks that may have changed since the one of this name last
    took them; who comes for the first time is told of every block."""
    found: list[tuple[int, int, int]] = []
    marks = _marks_of(pool, by)
    at = marks.find(1)
    while at >= 0 and len(found) < most:
        marks[at] = 0
        block = pool.blocks[at]
        found.append((at, code_of(block), block.parent.id if block.parent else 0))
        at = marks.find(1, at + 1)
    return found


def _marks_of(pool: BlockPool, by: str) -> bytearray:
    """With the pool's new ones, which all have now."""
    new = np.frombuffer(pool.changed, np.uint8)
    for marks in pool.untold.values():
        np.frombuffer(marks, np.uint8)[:] |= new
    new[:] = 0
    mine = pool.untold.pop(by, None)
    if mine is None:
        mine = bytearray(b"\0" + b"\1" * pool.usable)
    pool.untold[by] = mine
    if len(pool.untold) > MOST_TAKERS:
        del pool.untold[next(iter(pool.untold))]
    return mine


def block_facts(pool: BlockPool, leases: LeaseBook, block_id: int, now: float) -> BlockFacts | None:
    """None: there is no such block."""
    if not 1 <= block_id <= pool.usable:
        return None
    block = pool.blocks[block_id]
    named = block.hash is not None
    return BlockFacts(
        id=block_id,
        code=code_of(block).name.lower(),
        hash=block.hash.hex() if block.hash is not None else None,
        parent=block.parent.id if block.parent else None,
        depth=block.depth,
        children=block.children,
        tokens=len(block.tokens),
        refs=block.ref,
        pins=block.pins,
        hits=block.hits,
        heads=block.heads,
        soft_leases=block.soft,
        hard_leases=block.hard,
        unused_seconds=max(0.0, now - block.used_at) if named else 0.0,
        sessions=_sessions(block, leases),
    )


def _sessions(block: Block, leases: LeaseBook) -> list[str]:
    """Looked for until all are found, or enough."""
    found: list[str] = []
    wanted = min(block.heads, MOST_SESSIONS)
    for owner, head in reversed(leases.heads.items()):
        if len(found) >= wanted:
            break
        if _contains(head, block):
            found.append(owner)
    return found


def _contains(head: Head, block: Block) -> bool:
    return len(head.chain) > block.depth and head.chain[block.depth] == (block, block.born)
