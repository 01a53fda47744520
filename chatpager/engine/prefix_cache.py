"""Finding, publishing and evicting the blocks of shared prefixes.

A hit is a chain of CACHED blocks from the root whose token ids equal the sequence's, compared one by one: the hash only
says where to look; then the beginning of one more block, which is copied. Eviction takes leaves that nobody holds: of
the lowest class first (dead, cold, tail, idle session, soft lease), then the least recently used, then the deepest, so
a conversation loses its end before its beginning and what is left can still be hit. What is under a hard lease is not
taken. Evicted blocks that were worth something go to the lower tiers, if there are any, and come back from there when a
prompt continues a hit with them (``Restoring``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from chatpager.engine.block import Block, BlockState, EvictionClass
from chatpager.engine.block_hash import BlockHash, BlockProof
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.eviction_order import EvictionOrder
from chatpager.engine.ghost_index import Eviction, GhostIndex
from chatpager.engine.head_book import HeadBook
from chatpager.engine.leases import LeaseBook
from chatpager.engine.match import CacheStats, Match
from chatpager.engine.restoring import Restoring
from chatpager.engine.sequence import Sequence
from chatpager.engine.tiers import Demoted, Tiers

GHOSTS = 4
"""Evicted names that are remembered, in multiples of the pool."""


class PrefixCache:
    """``enabled`` False keeps the pool and finds nothing. ``lease_budget``: blocks that hard leases may keep.
    ``max_heads``: sessions without a lease that are known."""

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        *,
        enabled: bool = True,
        lease_budget: int = 0,
        tiers: Tiers | None = None,
        max_heads: int = 1 << 16,
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.enabled = enabled
        self.tiers = tiers
        self.worth_keeping = EvictionClass.COLD
        """The lowest class that is demoted when it is evicted, and not dropped."""
        self.stats = CacheStats()
        self._order = EvictionOrder(pool)
        reconsider = self._order.offer
        self.leases = LeaseBook(pool, block_size, budget=lease_budget, reconsider=reconsider)
        self.heads = HeadBook(
            self.leases, block_size, reconsider=reconsider, bury=self._bury_below, max_heads=max_heads
        )
        self.ghosts = GhostIndex(GHOSTS * pool.usable)
        self.below = Restoring(self)

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
                block = self._find(seq, i, name, held[-1] if held else None)
                if block is None:
                    break
                self.pool.share(block)
                held.append(block)
        return Match(self, held)

    def extend(self, seq: Sequence, match: Match) -> None:
        """Continue a match by the beginning of a block, whose rest is another's; at least one token is left."""
        start = len(match.blocks) * self.block_size
        wanted = seq.token_ids[start : min(len(seq), start + self.block_size) - 1]
        if not self.enabled or not wanted:
            return
        parent = match.blocks[-1] if match.blocks else None
        if found := self.pool.branches.closest(seq.domain(len(match.blocks)), parent, wanted):
            match.tail, match.tail_tokens = found
            self.pool.share(match.tail)
            seq.tail = match.tail, match.tail.born

    def _find(self, seq: Sequence, i: int, name: BlockHash, parent: Block | None) -> Block | None:
        """The block with the ``name`` of block ``i`` of ``seq``, if it is that, behind this parent."""
        block = self.pool.index.get(name)
        if block is None:
            return None
        if not block.holds(seq.domain(i), parent, seq.block_tokens(i)):
            self.stats.collisions += 1
            return None
        return block

    def save(self, owner: str, blocks: list[Block]) -> None:
        """Write what a conversation consists of to the disk, where there is one."""
        if self.tiers is not None:
            self.tiers.save(owner, blocks)

    def count_admission(self, seq: Sequence, match: Match) -> Eviction | None:
        """Count a prompt and what it found, once a request. Returns how the next block was lost, if it was in the cache
        not long ago."""
        blocks = len(match.blocks)
        self.stats.queried_tokens += seq.num_prompt_tokens
        self.stats.hit_tokens += min(match.tokens, seq.num_prompt_tokens)
        for source, count in match.restored.items():
            self.stats.restored_tokens[source] += count * self.block_size
        hashes = seq.full_hashes(self.matchable_blocks(seq)) if self.enabled else []
        found = [self.pool.index[name] for name in hashes[:blocks]]
        for block in found:
            block.hits += 1
        on_device = found[: blocks - match.restored.total()]
        for used_at, count in Counter(block.used_at for block in on_device).items():
            self.stats.reuse_gap.add(self.leases.now - used_at, count)
        if match.tail:
            match.tail.hits += 1
        lost = [self.ghosts.get(name) for name in hashes[blocks:]]
        for eviction in lost:
            if eviction is None:
                break
            self.stats.lost_tokens += self.block_size
            if self.ghosts.within(eviction, self.pool.usable):
                self.stats.lost_within_double += self.block_size
        return lost[0] if lost else None

    def begin_step(self) -> None:
        if self.tiers is not None:
            self.tiers.begin_step()

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
                self.pool.name(found, hashes[i], parent, tokens, domain=seq.domain(i))
                found.proof = seq.hasher.prove(parent.proof if parent else seq.hasher.proof, tokens)
                self.ghosts.forget(hashes[i])
                if self.tiers is not None:
                    self.tiers.is_back(found.proof)
            elif not found.holds(seq.domain(i), parent, tokens):
                self.stats.collisions += 1
                return
            parent = found
            seq.published = i + 1

    def keep_tail(self, seq: Sequence, chain: list[Block]) -> Block | None:
        """What a sequence that ends has computed behind its ``chain`` and that fills no block: who goes on from there
        copies it. None: nothing, or others still write to it, or not all before it is CACHED."""
        full, count = divmod(seq.committed, self.block_size)
        if not self.enabled or not count or len(chain) < full:
            return None
        tokens = tuple(seq.token_ids[full * self.block_size : seq.committed])
        parent = chain[-1] if chain else None
        name = seq.hasher.tail(seq.hashes[full - 1] if full else seq.hasher.root, tokens)
        found = self.pool.index.get(name)
        if found is None:
            block = self.pool.blocks[seq.block_table[full]]
            if block.state is not BlockState.OWNED or block.ref > 1:
                return None
            self.pool.name(block, name, parent, tokens, domain=seq.domain(full), is_tail=True)
            return block
        if not found.holds(seq.domain(full), parent, tokens):
            self.stats.collisions += 1
            return None
        return found

    def chain(self, seq: Sequence) -> list[Block]:
        """The CACHED blocks with the content of ``seq``, root first and without a gap."""
        found: list[Block] = []
        for i, name in enumerate(seq.hashes[: seq.published]):
            block = self._find(seq, i, name, found[-1] if found else None)
            if block is None:
                break
            found.append(block)
        return found

    def expect(self, seq: Sequence) -> bool:
        """``seq`` gives its blocks back and will ask for them again: evicted, they go to host memory, if there is any
        and it is worth that. Whether it is."""
        swapped = self.tiers is not None and self.tiers.swaps()
        for block in self.chain(seq):
            block.hits += 1
            block.left, block.computed_again = False, not swapped
            self._order.offer(block)  # an equal block that nobody holds may have been taken for dead until now
        return swapped

    def _named_block(self, seq: Sequence, i: int) -> Block | None:
        """The CACHED block with the content of block ``i`` of ``seq``: ours, or one whose whole ancestry is equal."""
        run: list[Block] = []
        for j in range(i, -1, -1):
            block = self.pool.index.get(seq.hashes[j])
            if block is None or block.tokens != seq.block_tokens(j) or block.domain != seq.domain(j):
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
        if seq.tail and seq.tail[0].born == seq.tail[1]:
            bad.add(seq.tail[0])
        for block in sorted(self.pool.index.values(), key=lambda b: b.depth):
            if block.parent in bad:
                bad.add(block)
        if self.tiers is not None:
            self.tiers.forget([block.proof for block in bad if not block.is_tail])
        for block in sorted(bad, key=lambda b: b.depth, reverse=True):
            self.pool.unname(block)

    # -- taking and giving back ---------------------------------------------------------------------------------------

    def spare(self) -> int:
        """Blocks that can be taken without a loss to any session: free ones, and cached ones that are in no head."""
        unclaimed = (b for b in self.pool.index.values() if not b.held and b.eviction_class <= EvictionClass.COLD)
        return len(self.pool.free) + sum(1 for _ in unclaimed)

    def allocate(self, count: int, by: str = "") -> list[int]:
        """``count`` blocks, OWNED by the caller: free ones first, then evicted ones. ``available`` says how many;
        ``by`` is the session they are for."""
        assert count <= self.pool.available, (count, self.pool.available)
        demoted: list[Demoted] = []
        while len(self.pool.free) < count:
            block = self._next_victim()
            if self._is_kept_below(block):
                demoted.append(Demoted(block.proof, block.id, block.left))
            self._evict(block, by)
        if self.tiers is not None:
            self.tiers.demote(demoted)
        return [self.pool.take_free().id for _ in range(count)]

    def free(self, table: list[int]) -> None:
        """Release a table's blocks, the last one first, so that a chain's end is evicted before its head."""
        self.pool.clock += 1
        for block_id in reversed(table):
            self.let_go(self.pool.blocks[block_id])
        table.clear()

    def let_go(self, block: Block, *, touch: bool = True) -> None:
        if self.pool.release(block, touch=touch):
            self._order.offer(block)

    def reset(self) -> int:
        """Evict everything nobody holds, leased or not, and empty the lower tiers. Returns the number of blocks."""
        if self.tiers is not None:
            self.tiers.clear()
        count = self.pool.evictable
        for _ in range(count):
            self._evict(self._order.take())
        return count

    def _is_kept_below(self, block: Block) -> bool:
        worth = block.eviction_class
        if block.is_tail or worth < self.worth_keeping:
            return False
        return not (block.computed_again and worth <= EvictionClass.COLD)

    def _bury_below(self, proofs: Iterable[BlockProof]) -> None:
        if self.tiers is not None:
            self.tiers.bury(proofs)

    def _next_victim(self) -> Block:
        block = self._order.take()
        while block.soft:
            self._order.offer(block)
            self.leases.give_way()
            block = self._order.take()
        return block

    def _evict(self, block: Block, by: str = "") -> None:
        assert block.hash is not None
        self.stats.evicted_blocks[block.eviction_class] += 1
        if not block.is_tail:
            self.stats.evict_age.add(self.leases.now - block.used_at)
            self.ghosts.put(block.hash, self.leases.now, block.eviction_class, by)
        parent = self.pool.evict(block)
        if parent:
            self._order.offer(parent)

    def audit(self, tables: list[list[int]]) -> None:
        """The invariants of the pool, of the leases, of the heads and of the eviction order."""
        self.pool.audit(tables)
        self.leases.audit()
        self.heads.audit(self.pool)
        self._order.audit()
