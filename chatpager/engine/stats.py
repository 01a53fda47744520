"""Figures of the engine as they are at one moment."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import Head, Strength
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
    """One conversation's full blocks: all of them when its last turn ended, those still in the device's cache, what
    the lower tiers have behind those without a gap, those that other conversations have too, and what is leased."""

    tokens: int
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    shared_tokens: int
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
    evicted_blocks: int
    lost_tokens: int
    """Of prompts, in blocks that had been evicted not long before."""
    leased_blocks: int
    """Under hard leases, each counted once."""
    preemptions: int
    recomputed_tokens: int
    deferred: int
    failed_steps: int
    """Steps that raised, repeats of their rows one by one included."""


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
        **pool.counts(),
    )


def tier_stats(tiers: Tiers | None, block_bytes: int) -> dict[str, Any]:
    """What EngineStats tells of the lower tiers; nothing of one that there is not."""
    host, disk = (tiers.host, tiers.disk) if tiers else (None, None)
    return {
        "host_bytes": len(host) * block_bytes if host is not None else 0,
        "host_capacity": host.capacity * block_bytes if host is not None else 0,
        "disk_bytes": disk.used if disk is not None else 0,
        "disk_capacity": disk.capacity if disk is not None else 0,
        "warm_fraction": disk.warm_fraction if disk is not None else None,
        "bad_disk_files": disk.bad_files if disk is not None else 0,
        "failed_disk_writes": disk.failed_writes if disk is not None else 0,
        "late_disk_loads": tiers.stats.late_loads if tiers is not None else 0,
    }


def session_cache(head: Head, block_size: int, now: float, tiers: Tiers | None) -> SessionCache:
    resident = head.resident()
    kept = tiers.holdings(head.proofs[resident:]) if tiers else Counter()
    leases = [
        LeaseState(
            strength=lease.strength,
            tokens=min(lease.covered, resident) * block_size,
            seconds_left=lease.deadline - now,
            reason=lease.reason,
        )
        for lease in head.leases.values()
    ]
    return SessionCache(
        tokens=len(head.proofs) * block_size,
        device_tokens=resident * block_size,
        host_tokens=kept[Source.HOST] * block_size,
        disk_tokens=kept[Source.DISK] * block_size,
        shared_tokens=sum(block.heads > 1 for block, _ in head.chain[:resident]) * block_size,
        leases=leases,
    )


def top_sessions(
    heads: Mapping[str, Head], prefix: str, limit: int, block_size: int, now: float, tiers: Tiers | None
) -> list[tuple[str, SessionCache]]:
    """The sessions whose names begin with ``prefix`` and that have most blocks on the device, most first."""
    sizes = ((head.resident(), owner) for owner, head in heads.items() if owner.startswith(prefix))
    largest = heapq.nlargest(limit, sizes)
    return [(owner, session_cache(heads[owner], block_size, now, tiers)) for size, owner in largest if size]
