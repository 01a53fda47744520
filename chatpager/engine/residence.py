"""Where sessions' blocks are, told of many at once: no more than a search in each chain."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import Head, Strength
from chatpager.engine.leases import LeaseBook
from chatpager.engine.stats import LeaseState, lease_states


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """``tokens`` of a conversation as its last turn left it; ``device_tokens`` of them are still on the device."""

    owner: str
    tokens: int
    device_tokens: int
    leases: list[LeaseState]


class Leased(msgspec.Struct, frozen=True, kw_only=True):
    """``sessions`` are the leased ones whose leases end first, hard ones before soft ones; ``hard`` and ``soft``
    say how many there are. Hard leases have a ``budget`` of blocks, of which they keep ``leased_blocks``."""

    budget: int
    leased_blocks: int
    softly_leased_blocks: int
    hard: int
    soft: int
    sessions: list[Residence]


def residences(leases: LeaseBook, owners: Iterable[str], block_size: int) -> list[Residence]:
    """Of those that are known."""
    return [_residence(owner, leases.heads[owner], block_size, leases.now) for owner in owners if owner in leases.heads]


def leased_sessions(leases: LeaseBook, pool: BlockPool, limit: int, block_size: int) -> Leased:
    hard, soft = leases.holders(Strength.HARD), leases.holders(Strength.SOFT)
    found = _first(hard, Strength.HARD, limit)
    only_soft = {owner: head for owner, head in soft.items() if owner not in hard}
    found += _first(only_soft, Strength.SOFT, limit - len(found))
    return Leased(
        budget=leases.budget,
        leased_blocks=pool.leased,
        softly_leased_blocks=pool.softly_leased,
        hard=len(hard),
        soft=len(soft),
        sessions=[_residence(owner, head, block_size, leases.now) for owner, head in found],
    )


def _first(held: dict[str, Head], strength: Strength, limit: int) -> list[tuple[str, Head]]:
    return heapq.nsmallest(limit, held.items(), key=lambda pair: pair[1].leases[strength].deadline)


def _residence(owner: str, head: Head, block_size: int, now: float) -> Residence:
    return Residence(
        owner=owner,
        tokens=len(head.proofs) * block_size + head.tail_tokens,
        device_tokens=head.tokens(head.resident(), block_size),
        leases=lease_states(head, block_size, now),
    )
