"""Finding, publishing and evicting the blocks of shared prefixes.

A hit is a chain of CACHED blocks from the root whose token ids equal the sequence's, compared one by one: the hash only
says where to look. Eviction takes leaves that nobody holds, the least recently used first, then the deepest, so a
conversation loses its end before its beginning and what is left can still be hit.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from chatpager.engine.block_hash import BlockHash
from chatpager.engine.block_pool import Block, BlockPool, BlockState
from chatpager.engine.sequence import Sequence


class Match:
    """Cached blocks of one prompt, held until ``commit`` or ``rollback``; one of the two must be called, once."""

    __slots__ = ("_cache", "_open", "blocks")

    def __init__(self, cache: PrefixCache, blocks: list[Block]) -> None:
        self._cache = cache
        self._open = True
        self.blocks = blocks

    def commit(self) -> list[int]:
        """Hand the held blocks over to a block table."""
        self._close()
        return [block.id for block in self.blocks]

    def rollback(self) -> None:
        """Let go of the blocks as if nobody had looked: their place in the eviction order does not change."""
        self._close()
        for block in reversed(self.blocks):
            self._cache.let_go(block, touch=False)

    def _close(self) -> None:
        assert self._open, "a match was committed or rolled back twice"
        self._open = False


@dataclass
class CacheStats:
    """Counted once a request, at its first admission; preempted requests' second looks are not hits."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    evicted_blocks: int = 0
    collisions: int = 0
    """Names that were taken by other content (or hits refused because the tokens differed)."""


class PrefixCache:
    """``enabled`` False keeps the pool and finds nothing."""

    def __init__(self, pool: BlockPool, block_size: int, *, enabled: bool = True) -> None:
        self.pool = pool
        self.block_size = block_size
        self.enabled = enabled
        self.stats = CacheStats()
        self._candidates: list[tuple[int, int, int]] = []
        """Heap of (last_use, -depth, block id); an entry is stale when its block changed since."""

    # -- finding ------------------------------------------------------------------------------------------------------

    def matchable_blocks(self, seq: Sequence) -> int:
        """Full blocks a match may cover: at least one token is left to compute, or there were no logits."""
        return (len(seq) - 1) // self.block_size

    def peek(self, seq: Sequence) -> int:
        """Leading blocks of ``seq`` that stand in the cache, holding none. Changes nothing.

        A chain is cached from the root without gaps, so its end is found by bisection; only names are compared.
        """
        if not self.enabled:
            return 0
        hashes = seq.full_hashes(self.matchable_blocks(seq))
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high + 1) // 2
            if hashes[middle - 1] in self.pool.index:
                low = middle
            else:
                high = middle - 1
        return low

    def match(self, seq: Sequence) -> Match:
        """The longest cached prefix of ``seq``, every block held and compared token by token."""
        held: list[Block] = []
        if self.enabled:
            for i, name in enumerate(seq.full_hashes(self.matchable_blocks(seq))):
                block = self._find(name, held[-1] if held else None, seq.block_tokens(i))
                if block is None:
                    break
                self.pool.share(block)
                held.append(block)
        return Match(self, held)

    def _find(self, name: BlockHash, parent: Block | None, tokens: tuple[int, ...]) -> Block | None:
        """The block with this name if it also has this parent and these tokens."""
        block = self.pool.index.get(name)
        if block is None:
            return None
        if block.parent is not parent or block.tokens != tokens:
            self.stats.collisions += 1
            return None
        return block

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, seq: Sequence) -> None:
        """Name the full blocks of ``seq`` whose content is written. Called only after the step that wrote them.

        A block gets a name only behind a named parent. Where an equal block already has it, ours stays without. Blocks
        that came from the cache are never named again: without a name they were discarded.
        """
        full = seq.committed // self.block_size
        if not self.enabled or seq.published >= full:
            return
        hashes = seq.full_hashes(full)
        start = seq.published
        parent = self._named_block(seq, start - 1) if start else None
        while start > seq.written and parent is None:
            # The equal block we relied on was evicted while ours lived on: publish ours in its place.
            start -= 1
            parent = self._named_block(seq, start - 1) if start else None
        if start and parent is None:
            return
        for i in range(start, full):
            tokens = seq.block_tokens(i)
            found = self.pool.index.get(hashes[i])
            if found is None:
                found = self.pool.blocks[seq.block_table[i]]
                self.pool.name(found, hashes[i], parent, tokens)
            elif found.parent is not parent or found.tokens != tokens:
                self.stats.collisions += 1
                return
            parent = found
            seq.published = i + 1

    def _named_block(self, seq: Sequence, i: int) -> Block | None:
        """The CACHED block with the content of block ``i`` of ``seq``: ours, or one whose whole ancestry is equal."""
        run: list[Block] = []
        for j in range(i, -1, -1):
            block = self.pool.index.get(seq.hashes[j])
            if block is None or block.tokens != seq.block_tokens(j):
                return None
            run.append(block)
            if block.id == seq.block_table[j]:
                break
        else:
            if run[-1].parent is not None:
                return None
        ancestry_agrees = all(child.parent is parent for child, parent in pairwise(run))
        return run[0] if ancestry_agrees else None

    def discard(self, seq: Sequence) -> None:
        """Take the names off everything ``seq`` read or computed, and all that was computed from it: one of them is
        poisoned, and to lose a good prefix is better than to keep a bad one. ``seq`` must end, or it would publish its
        blocks again."""
        bad = {block for i in range(seq.published) if (block := self._named_block(seq, i))}
        for block in sorted(self.pool.index.values(), key=lambda b: b.depth):
            if block.parent in bad:
                bad.add(block)
        for block in sorted(bad, key=lambda b: b.depth, reverse=True):
            self.pool.unname(block)

    # -- taking and giving back ---------------------------------------------------------------------------------------

    def allocate(self, count: int) -> list[int]:
        """``count`` blocks, OWNED by the caller: free ones first, then evicted ones. ``available`` says how many."""
        assert count <= self.pool.available, (count, self.pool.available)
        while len(self.pool.free) < count:
            self._evict_one()
        return [self.pool.take_free().id for _ in range(count)]

    def free(self, table: list[int]) -> None:
        """Release a table's blocks, the last one first, so that a chain's end is evicted before its head."""
        self.pool.clock += 1
        for block_id in reversed(table):
            self.let_go(self.pool.blocks[block_id])
        table.clear()

    def let_go(self, block: Block, *, touch: bool = True) -> None:
        if self.pool.release(block, touch=touch):
            self._offer(block)

    def reset(self) -> int:
        """Evict everything nobody holds. Returns the number of blocks."""
        count = self.pool.evictable
        for _ in range(count):
            self._evict_one()
        return count

    def _offer(self, block: Block) -> None:
        """Put a CACHED leaf that nobody holds among the candidates; entries made stale by later changes are skipped."""
        heapq.heappush(self._candidates, (block.last_use, -block.depth, block.id))
        if len(self._candidates) > 2 * len(self.pool.blocks) + 64:
            self._drop_stale_candidates()

    def _drop_stale_candidates(self) -> None:
        self._candidates = [
            (b.last_use, -b.depth, b.id) for b in self.pool.index.values() if not b.held and b.children == 0
        ]
        heapq.heapify(self._candidates)

    def _evict_one(self) -> None:
        while True:
            assert self._candidates, f"{self.pool.evictable} evictable blocks, none on the heap"
            last_use, depth, block_id = heapq.heappop(self._candidates)
            block = self.pool.blocks[block_id]
            is_leaf = block.state is BlockState.CACHED and not block.held and block.children == 0
            if is_leaf and (block.last_use, -block.depth) == (last_use, depth):
                break
        self.stats.evicted_blocks += 1
        parent = self.pool.evict(block)
        if parent:
            self._offer(parent)

    def audit(self, tables: list[list[int]]) -> None:
        """The pool's invariants, and: every candidate for eviction is on the heap."""
        self.pool.audit(tables)
        offered = Counter(self._candidates)
        for block in self.pool.blocks:
            if block.state is BlockState.CACHED and not block.held and block.children == 0:
                assert offered[block.last_use, -block.depth, block.id], f"{block} is not among the candidates"
