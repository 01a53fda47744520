"""One preallocated KV block: what its content is, who holds it, and what it is worth to somebody.

It is in exactly one state:

=======  ============================  ==========================================================
state    holders                       meaning
=======  ============================  ==========================================================
NULL     -                             block 0; padding points here, nobody owns it
FREE     none                          on the free list, its content means nothing
OWNED    one or more                   in block tables, content without a name (partial, or a duplicate)
CACHED   none or more                  written and named; ``index[hash]`` is this block
=======  ============================  ==========================================================
"""

from __future__ import annotations

from enum import IntEnum

from chatpager.engine.block_hash import BlockHash, BlockProof

NO_DOMAIN = BlockProof(b"")


class BlockState(IntEnum):
    NULL = 0
    FREE = 1
    OWNED = 2
    CACHED = 3


class EvictionClass(IntEnum):
    """What a cached block is worth to somebody; lower ones are evicted first."""

    DEAD = 0
    """No session's conversation contains it, and it was never hit, or its session has left it behind."""
    COLD = 1
    """No session's conversation contains it, but it was hit."""
    TAIL = 2
    """The end of a session's conversation, which does not fill a block."""
    IDLE = 3
    """Part of a session's conversation."""
    SOFT = 4
    """Under a soft lease."""
    HARD = 5
    """Under a hard lease: not evicted until the lease ends or is revoked."""


class Block:
    __slots__ = (
        "born",
        "children",
        "computed_again",
        "depth",
        "domain",
        "hard",
        "hash",
        "heads",
        "hits",
        "id",
        "is_tail",
        "last_use",
        "left",
        "parent",
        "pins",
        "proof",
        "ref",
        "soft",
        "state",
        "tokens",
        "used_at",
    )

    def __init__(self, block_id: int) -> None:
        self.id = block_id
        self.state = BlockState.FREE
        self.ref = 0
        """Block tables (and matches under way) that contain this block."""
        self.last_use = 0
        self.used_at = 0.0
        """Seconds; named or let go for the last time."""
        self.clear_name()

    def clear_name(self) -> None:
        self.hash: BlockHash | None = None
        self.domain = NO_DOMAIN
        """Of the empty prefix before it: its tenant's, or everybody's."""
        self.proof = BlockProof(b"")
        """None of a tail: no lower tier has it."""
        self.parent: Block | None = None
        self.tokens: tuple[int, ...] = ()
        self.is_tail = False
        self.depth = 0
        self.children = 0
        """CACHED blocks whose parent this is."""
        self.pins = 0
        """Children that are held, by a table or through a child of their own; a pinned block cannot be evicted."""
        self.born = 0
        """Which naming this is: tells a block from what it was before it was evicted and used again."""
        self.heads = 0
        """Sessions whose conversation contains this block."""
        self.left = False
        """Conversations contained it, and none does any more, wherever its blocks are."""
        self.computed_again = False
        """Who expects it back computes it sooner than it is copied."""
        self.soft = 0
        self.hard = 0
        """Leases of that strength that cover it."""
        self.hits = 0

    def holds(self, domain: BlockProof, parent: Block | None, tokens: tuple[int, ...]) -> bool:
        """Whether it is what its name was looked up for: names may collide, these do not."""
        return self.domain == domain and self.parent is parent and self.tokens == tokens

    @property
    def held(self) -> bool:
        return self.ref > 0 or self.pins > 0

    @property
    def eviction_class(self) -> EvictionClass:
        if self.hard:
            return EvictionClass.HARD
        if self.soft:
            return EvictionClass.SOFT
        if self.heads:
            return EvictionClass.TAIL if self.is_tail else EvictionClass.IDLE
        return EvictionClass.COLD if self.hits else EvictionClass.DEAD

    def __repr__(self) -> str:
        return f"Block({self.id} {self.state.name} ref={self.ref} children={self.children} pins={self.pins})"
