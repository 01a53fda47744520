"""Blocks that rows of this step copy before they write: held until it is over, so that it can be repeated."""

from __future__ import annotations

from chatpager.engine.block import BlockState
from chatpager.engine.plan import Plan, Row
from chatpager.engine.prefix_cache import PrefixCache


class StepCopies:
    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._held: list[int] = []

    def is_shared(self, block_id: int) -> bool:
        """Whether another table has the block too, or the cache. A step's hold does not count: it copies before
        anything is written, and what it copies ends before the place where the last holder writes."""
        block = self._cache.pool.blocks[block_id]
        return block.state is BlockState.CACHED or (block.ref > 1 and block.ref - self.holds(block_id) > 1)

    def holds(self, block_id: int) -> int:
        """How many holders of a block are rows of this step."""
        return self._held.count(block_id)

    def hold(self, block_id: int) -> None:
        """A table's hold becomes the step's."""
        self._held.append(block_id)

    def drop(self, row: Row) -> None:
        """It is not in the step any more."""
        if row.copy:
            self._held.remove(row.copy[0])
            self._cache.let_go(self._cache.pool.blocks[row.copy[0]])

    def take_back(self, plan: Plan) -> None:
        """The step was interrupted, and nobody knows what it copied: its sequences have their shared blocks again."""
        for row in plan.rows:
            if row.copy:
                shared, own = row.copy
                table = row.seq.block_table
                table[table.index(own)] = shared
                self._held.remove(shared)  # the step's hold is the table's again
                self._cache.let_go(self._cache.pool.blocks[own])

    def settle(self) -> None:
        """The step is over, well or not: what only it needed is let go."""
        while self._held:
            self._cache.let_go(self._cache.pool.blocks[self._held.pop()])
