"""Figures of the engine as they are at one moment."""

from __future__ import annotations

import msgspec

from chatpager.engine.block_pool import BlockPool
from chatpager.engine.sequence import Sequence


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


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    running: int
    waiting: int
    memory: MemoryStats
    queried_tokens: int
    hit_tokens: int
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
