"""What is claimed of the cache: a session's head, the leases on it, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import msgspec

from chatpager.engine.block import Block
from chatpager.engine.block_hash import BlockProof


class Strength(StrEnum):
    SOFT = "soft"
    HARD = "hard"


TTL_CAPS = {Strength.SOFT: 600.0, Strength.HARD: 60.0}
"""Longest time to a deadline, in seconds: a hard lease lives from one heartbeat to the next."""

LeaseChange = Literal["granted", "renewed", "clipped", "released", "expired", "revoked"]


class LeaseEvent(msgspec.Struct, frozen=True, kw_only=True, tag="lease"):
    """What became of a lease. ``tokens`` are those it covers now, or covered until now."""

    owner: str
    change: LeaseChange
    strength: Strength
    tokens: int
    seconds_left: float
    reason: str = ""
    """Why it came about, or why it ended."""


@dataclass
class Lease:
    """``span``: leading blocks of the head that it was asked for (None: all, as the head grows); ``covered`` of them
    are counted on the blocks."""

    strength: Strength
    deadline: float
    span: int | None
    covered: int = 0
    reason: str = ""
    """Of whoever asked for the deadline."""


@dataclass
class Head:
    """A session's chain of cached blocks, root first, with the tail at its end: (block, its ``born`` when it was
    recorded). What was evicted since is told by another ``born``; nothing behind it is cached either."""

    tenant: bytes
    chain: list[tuple[Block, int]] = field(default_factory=list)
    proofs: list[BlockProof] = field(default_factory=list)
    """Of the full blocks of the chain: by these the lower tiers know them."""
    tail_tokens: int = 0
    """Tokens behind those when they were recorded."""
    leases: dict[Strength, Lease] = field(default_factory=dict)
    expired_at: float | None = None
    """When its last lease came to its deadline, if there was none since."""
    revoked_at: float | None = None
    """When a lease of it was revoked because a request needed the memory, if there was none since."""

    def resident(self) -> int:
        """Leading blocks that are still cached."""
        low, high = 0, len(self.chain)
        while low < high:
            middle = (low + high + 1) // 2
            block, born = self.chain[middle - 1]
            if block.born == born:
                low = middle
            else:
                high = middle - 1
        return low

    def tokens(self, blocks: int, block_size: int) -> int:
        """Tokens of the first ``blocks``, which are still cached; all but the last are full."""
        return (blocks - 1) * block_size + len(self.chain[blocks - 1][0].tokens) if blocks else 0

    def is_idle(self) -> bool:
        """Whether some of it is cached and nobody holds the end of that."""
        resident = self.resident()
        return resident > 0 and not self.chain[resident - 1][0].held
