"""Which cached block is evicted next: of the lowest class, a tail, the least recently used, the deepest."""

from __future__ import annotations

import heapq
from collections import Counter

from chatpager.engine.block import Block, BlockState
from chatpager.engine.block_pool import BlockPool

Key = tuple[int, bool, int, int, int]


class EvictionOrder:
    """A heap of (class, not a tail, last_use, -depth, block id) over the CACHED leaves that nobody holds. An entry
    whose block changed since is stale, and skipped; whoever changes a block so that it may be a candidate offers it
    again."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._heap: list[Key] = []

    def offer(self, block: Block) -> None:
        """It is, or may have become, a candidate of another class."""
        self._pool.changed[block.id] = 1
        if not _is_candidate(block):
            return
        heapq.heappush(self._heap, _key(block))
        if len(self._heap) > 2 * len(self._pool.blocks) + 64:
            self._heap = [_key(b) for b in self._pool.index.values() if _is_candidate(b)]
            heapq.heapify(self._heap)

    def take(self) -> Block:
        """The first candidate; it must be evicted or offered again."""
        while self._heap:
            entry = heapq.heappop(self._heap)
            block = self._pool.blocks[entry[-1]]
            if _is_candidate(block) and _key(block) == entry:
                return block
        raise AssertionError(f"{self._pool.evictable} evictable blocks, none on the heap")

    def audit(self) -> None:
        """Every candidate is on the heap."""
        offered = Counter(self._heap)
        for block in self._pool.blocks:
            assert not _is_candidate(block) or offered[_key(block)], f"{block} is not among the candidates"


def _is_candidate(block: Block) -> bool:
    return block.state is BlockState.CACHED and not block.held and block.children == 0


def _key(block: Block) -> Key:
    """The order of eviction, lowest first. A tail saves less than a block, so none of its class goes before it."""
    return block.eviction_class, not block.is_tail, block.last_use, -block.depth, block.id
