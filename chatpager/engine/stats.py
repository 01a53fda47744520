"""Figures of the engine as they are at one moment."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import msgspec

from chatpager.engine.block import EvictionClass
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import Head, Strength
from chatpager.engine.histogram import Distribution
from chatpager.engine.match import CacheStats
from chatpager.engine.published import OWNER, PublishedPrefix
from chatpager.engine.reading import Source
from chatpager.engine.sequence import Sequence
from chatpager.engine.tiers import Tiers


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True):
    """Slots are places for one token's keys and values. ``waste`` = (allocated - used) / allocated of running
    sequences, shared blocks counted once; ``utilisation`` = used / all slots of the pool."""

    blocks: int
    free: int
    cached: int
    active: int
    leased: int
    pinned: int
    """Of the ``cached`` ones those that leases keep: soft ones alone, and hard ones."""
    block_size: int
    allocated_slots: int
    used_slots: int

    @property
    def waste(self) -> float:
        return (self.allocated_slots - self.used_slots) / self.allocated_slots if self.allocated_slots else 0.0

    @property
    def utilisation(self) -> float:
        return self.used_slots / (self.blocks * self.block_size)


class LeaseState(msgspec.Struct, frozen=True, kw_only=True):
    strength: Strength
    tokens: int
    seconds_left: float
    reason: str = ""


class SessionCache(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation's tokens whose keys and values were kept when its last turn ended: all of them, those still in
    the device's cache, what the lower tiers have behind those without a gap, those that other conversations have too,
    and what is leased."""

    tokens: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    shared_tokens: int
    leases: list[LeaseState]


class PublishedCache(msgspec.Struct, frozen=True, kw_only=True):
    """A published prefix: its tokens, those in the device's cache, what the lower tiers have behind them without a gap,
    and how many conversations that the engine knows begin with it."""

    label: str
    tokens: int
    blocks: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    sessions: int
    leases: list[LeaseState]


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    running: int
    waiting: int
    memory: MemoryStats
    queried_tokens: int
    hit_tokens: int
    """From any tier; ``host_hit_tokens`` and ``disk_hit_tokens`` of them were not on the device."""
    host_hit_tokens: int
    disk_hit_tokens: int
    block_bytes: int
    host_bytes: int
    host_capacity: int
    disk_bytes: int
    disk_capacity: int
    warm_fraction: float | None
    """Of what conversations consisted of at the start, the share of tokens that the disk had; None: nothing known."""
    bad_disk_files: int
    failed_disk_writes: int
    late_disk_loads: int
    """Prompts for which the disk was given up, because it was slower than computing."""
    tier_load_seconds: dict[str, Distribution]
    """Of a block, by tier."""
    passed_over: dict[str, int]
    """Searches of a tier that ended because computing is faster, and preemptions that did without host memory."""
    block_seconds: dict[str, float]
    """Moving averages of what a block takes, by the way: compute, copy_out, copy_back, read; as far as known."""
    evicted_blocks: dict[str, int]
    """By class."""
    lost_tokens: int
    """Of prompts, in blocks that had been evicted not long before; ``lost_within_double`` of them twice the pool would
    have kept."""
    lost_within_double: int
    evict_age: Distribution
    reuse_gap: Distribution
    leased_blocks: dict[str, int]
    """By strength, each counted once."""
    lease_events: dict[str, int]
    """What became of leases, by kind; renewals included."""
    preemptions: int
    swaps: int
    recomputed_tokens: int
    """After preemptions; ``repeated_tokens`` because a step raised."""
    repeated_tokens: int
    deferred: int
    failed_steps: int
    """Steps that raised, repeats of their rows one by one included."""
    between_tokens: Distribution
    """Seconds from one token of a sequence to its next."""


def memory_stats(pool: BlockPool, running: list[Sequence], block_size: int) -> MemoryStats:
    filled: dict[int, int] = {}
    for seq in running:
        for i, block_id in enumerate(seq.block_table):
            tokens = min(block_size, max(0, seq.committed - i * block_size))
            filled[block_id] = max(filled.get(block_id, 0), tokens)
    return MemoryStats(
        blocks=pool.usable,
        block_size=block_size,
        allocated_slots=len(filled) * block_size,
        used_slots=sum(filled.values()),
        leased=pool.spared,
        pinned=pool.locked,
        **pool.counts(),
    )


def cache_stats(stats: CacheStats) -> dict[str, Any]:
    """What EngineStats tells of the prefix cache."""
    return {
        "queried_tokens": stats.queried_tokens,
        "hit_tokens": stats.hit_tokens,
        "host_hit_tokens": stats.restored_tokens[Source.HOST],
        "disk_hit_tokens": stats.restored_tokens[Source.DISK],
        "evicted_blocks": {kind.name.lower(): stats.evicted_blocks[kind] for kind in EvictionClass},
        "lost_tokens": stats.lost_tokens,
        "lost_within_double": stats.lost_within_double,
        "evict_age": stats.evict_age.distribution(),
        "reuse_gap": stats.reuse_gap.distribution(),
    }


def tier_stats(tiers: Tiers | None, block_bytes: int) -> dict[str, Any]:
    """What EngineStats tells of the lower tiers; nothing of one that there is not."""
    host, disk = (tiers.host, tiers.disk) if tiers else (None, None)
    return {
        "block_bytes": block_bytes,
        "host_bytes": len(host) * block_bytes if host is not None else 0,
        "host_capacity": host.capacity * block_bytes if host is not None else 0,
        "disk_bytes": disk.used if disk is not None else 0,
        "disk_capacity": disk.capacity if disk is not None else 0,
        "warm_fraction": disk.warm_fraction if disk is not None else None,
        "bad_disk_files": disk.bad_files if disk is not None else 0,
        "failed_disk_writes": disk.failed_writes if disk is not None else 0,
        "late_disk_loads": tiers.stats.late_loads if tiers is not None else 0,
        **_times(tiers),
    }


def _times(tiers: Tiers | None) -> dict[str, Any]:
    if tiers is None:
        return {"tier_load_seconds": {}, "passed_over": {}, "block_seconds": {}}
    times = tiers.times
    ways = {"compute": times.compute, "copy_out": times.copy_out, "copy_back": times.copy_back, "read": times.read}
    return {
        "tier_load_seconds": {
            source.value: seconds.distribution() for source, seconds in tiers.stats.load_seconds.items()
        },
        "passed_over": {source.value: times.passed_over[source] for source in Source},
        "block_seconds": {name: way.seconds for name, way in ways.items() if way.seconds is not None},
    }


def session_cache(head: Head, block_size: int, now: float, tiers: Tiers | None) -> SessionCache:
    resident = head.resident()
    kept = tiers.holdings(head.proofs[resident:]) if tiers else Counter()
    return SessionCache(
        tokens=len(head.proofs) * block_size + head.tail_tokens,
        device_tokens=head.tokens(resident, block_size),
        host_tokens=kept[Source.HOST] * block_size,
        disk_tokens=kept[Source.DISK] * block_size,
        shared_tokens=sum(len(block.tokens) for block, _ in head.chain[:resident] if block.heads > 1),
        leases=lease_states(head, block_size, now),
    )


def lease_states(head: Head, block_size: int, now: float) -> list[LeaseState]:
    resident = head.resident()
    return [
        LeaseState(
            strength=lease.strength,
            tokens=head.tokens(min(lease.covered, resident), block_size),
            seconds_left=lease.deadline - now,
            reason=lease.reason,
        )
        for lease in head.leases.values()
    ]


def published_cache(
    prefix: PublishedPrefix, pool: BlockPool, heads: Mapping[str, Head], now: float, tiers: Tiers | None
) -> PublishedCache:
    """``heads``: those of conversations, and the prefix's own."""
    size = len(prefix.token_ids) // prefix.blocks
    resident = sum(1 for _ in takewhile(pool.index.__contains__, prefix.names))
    kept = tiers.holdings(prefix.proofs[resident:]) if tiers else Counter()
    last, blocks = prefix.proofs[-1], prefix.blocks
    mine = heads.get(prefix.owner)
    return PublishedCache(
        label=prefix.label,
        tokens=len(prefix.token_ids),
        blocks=blocks,
        device_tokens=resident * size,
        host_tokens=kept[Source.HOST] * size,
        disk_tokens=kept[Source.DISK] * size,
        sessions=sum(
            not owner.startswith(OWNER) and len(head.proofs) >= blocks and head.proofs[blocks - 1] == last
            for owner, head in heads.items()
        ),
        leases=lease_states(mine, size, now) if mine else [],
    )


def top_sessions(
    heads: Mapping[str, Head], limit: int, block_size: int, now: float, tiers: Tiers | None
) -> list[tuple[str, SessionCache]]:
    """The sessions that have most blocks on the device, most first."""
    sizes = ((head.resident(), owner) for owner, head in heads.items())
    largest = heapq.nlargest(limit, sizes)
    return [(owner, session_cache(heads[owner], block_size, now, tiers)) for size, owner in largest if size]
