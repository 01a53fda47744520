"""The preallocated KV blocks: who holds them, which content has a name, which may be taken back.

Only the first block with some content gets its name; a later duplicate stays OWNED and is freed with its last holder.
The parent of a CACHED block is CACHED, so a chain is evicted from its end. A CACHED block is full, or it is a tail:
the end of what a sequence computed, which is only ever copied, and nothing goes on from it.
"""

from __future__ import annotations

from collections import deque

from chatpager.engine.block import NO_DOMAIN, Block, BlockState
from chatpager.engine.block_hash import BlockHash, BlockProof
from chatpager.engine.branches import Branches
from chatpager.engine.cache_events import CacheEvent, CacheEvents


class BlockPool:
    """``num_blocks`` blocks, the null block included. Counts are kept, never recomputed; ``audit`` recomputes them."""

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks >= 2, num_blocks
        self.blocks = [Block(i) for i in range(num_blocks)]
        self.blocks[0].state = BlockState.NULL
        self.free: deque[int] = deque(range(1, num_blocks))
        self.changed = bytearray(num_blocks)
        """By id, 1 where a block may look otherwise than when somebody last took marks away (``block_map``)."""
        self.untold: dict[str, bytearray] = {}
        """The same by who takes them, of those before: who took some last is the last."""
        self.index: dict[BlockHash, Block] = {}
        self.branches = Branches()
        """The blocks in ``index``."""
        self.evictable = 0
        """CACHED blocks that nobody holds, directly or through a descendant."""
        self.leased = 0
        """CACHED blocks under a hard lease, each counted once."""
        self.locked = 0
        """Those of them that nobody holds: evictable but for the lease."""
        self.softly_leased = 0
        """CACHED blocks under a soft lease, each counted once."""
        self.spared = 0
        """Those of them that nobody holds and no hard lease covers: evicted after what has none."""
        self.events = CacheEvents()
        """Of names given and taken."""
        self._names = 0
        self.clock = 0
        """Grows with every release, so that last_use orders blocks by when they were let go."""
        self.now = 0.0
        """Seconds, as the engine's caller tells them."""

    @property
    def usable(self) -> int:
        return len(self.blocks) - 1

    @property
    def available(self) -> int:
        """Blocks that an allocation can get: free ones, and cached ones that nobody holds or has a hard lease on."""
        return len(self.free) + self.evictable - self.locked

    def take_free(self) -> Block:
        """The next free block, OWNED by the caller."""
        block = self.blocks[self.free.popleft()]
        assert block.state is BlockState.FREE and block.ref == 0 and block.hash is None, block
        block.state, block.ref = BlockState.OWNED, 1
        self.changed[block.id] = 1
        return block

    def share(self, block: Block) -> None:
        """One more holder. A CACHED block that nobody held stops being evictable."""
        assert block.state in (BlockState.OWNED, BlockState.CACHED), block
        block.ref += 1
        if block.ref == 1:
            self._now_held(block)

    def release(self, block: Block, *, touch: bool = True) -> bool:
        """One holder less. True when the block is now a CACHED leaf without a holder: a candidate for eviction.

        ``touch`` False leaves ``last_use`` as it was (a match that was rolled back is no use).
        """
        assert block.ref > 0, f"{block} released more often than held"
        block.ref -= 1
        if touch:
            block.last_use, block.used_at = self.clock, self.now
        if block.ref:
            return False
        if block.state is BlockState.OWNED:
            block.state = BlockState.FREE
            self.free.appendleft(block.id)
            self.changed[block.id] = 1
            return False
        self._no_longer_held(block)
        return block.children == 0

    def name(
        self,
        block: Block,
        name: BlockHash,
        parent: Block | None,
        tokens: tuple[int, ...],
        *,
        domain: BlockProof = NO_DOMAIN,
        is_tail: bool = False,
    ) -> None:
        """OWNED -> CACHED: the block is full or nobody writes to it any more, and no other block has its name."""
        assert block.state is BlockState.OWNED and name not in self.index, (block, name)
        assert parent is None or (parent.state is BlockState.CACHED and not parent.is_tail), (block, parent)
        block.state = BlockState.CACHED
        block.hash, block.parent, block.tokens = name, parent, tokens
        block.domain, block.is_tail = domain, is_tail
        self._names += 1
        block.born, block.used_at = self._names, self.now
        block.depth = parent.depth + 1 if parent else 0
        self.changed[block.id] = 1
        self.index[name] = block
        self.branches.add(block)
        if not is_tail:
            self.events.stored(name, parent.hash if parent else None)
        if parent:
            parent.children += 1
            self._pin(parent)

    def snapshot(self) -> list[CacheEvent]:
        """Every full CACHED block as if it had been stored with the latest event, parents first."""
        full = ((name, block) for name, block in self.index.items() if not block.is_tail)
        cached = sorted(full, key=lambda pair: pair[1].depth)
        return [
            CacheEvent(self.events.last, "block.stored", name, block.parent.hash if block.parent else None)
            for name, block in cached
        ]

    def evict(self, block: Block) -> Block | None:
        """CACHED leaf without a holder -> FREE. Returns the parent when it has become a candidate itself."""
        assert block.state is BlockState.CACHED and not block.held and block.children == 0, block
        self._evictable(block, -1)
        parent = self._forget(block)
        block.state = BlockState.FREE
        self.free.appendleft(block.id)
        return parent if parent and parent.children == 0 and not parent.held else None

    def unname(self, block: Block) -> None:
        """CACHED -> OWNED (it has holders) or FREE: its content must not be found again. Children go first."""
        assert block.state is BlockState.CACHED and block.children == 0, block
        if not block.held:
            self.evict(block)
            return
        parent = block.parent
        self._forget(block)
        block.state = BlockState.OWNED
        if parent:
            self._unpin(parent)

    def _forget(self, block: Block) -> Block | None:
        parent, name = block.parent, block.hash
        assert name is not None and self.index[name] is block
        self.leased -= block.hard > 0
        self.softly_leased -= block.soft > 0
        self.changed[block.id] = 1
        del self.index[name]
        self.branches.remove(block)
        if not block.is_tail:
            self.events.removed(name)
        if parent:
            parent.children -= 1
        block.clear_name()
        return parent

    def lease(self, block: Block, change: int, *, hard: bool) -> None:
        """One lease more (+1) or less (-1) on a CACHED block."""
        assert block.state is BlockState.CACHED and (block.hard if hard else block.soft) + change >= 0, block
        self.changed[block.id] = 1
        self._count_leases(block, -1)
        if hard:
            block.hard += change
        else:
            block.soft += change
        self._count_leases(block, 1)

    def _count_leases(self, block: Block, change: int) -> None:
        self.leased += change if block.hard else 0
        self.softly_leased += change if block.soft else 0
        if not block.held:
            self._count_idle(block, change)

    def _count_idle(self, block: Block, change: int) -> None:
        if block.hard:
            self.locked += change
        elif block.soft:
            self.spared += change

    def _evictable(self, block: Block, change: int) -> None:
        self.changed[block.id] = 1
        self.evictable += change
        self._count_idle(block, change)

    # A held block pins its parent, and a pinned block is held; so only the edge of what is held ever moves.

    def _now_held(self, block: Block) -> None:
        if block.pins == 0:
            self._evictable(block, -1)
            if block.parent:
                self._pin(block.parent)

    def _no_longer_held(self, block: Block) -> None:
        if block.pins == 0:
            self._evictable(block, 1)
            if block.parent:
                self._unpin(block.parent)

    def _pin(self, block: Block) -> None:
        current: Block | None = block
        while current:
            was_held = current.held
            current.pins += 1
            if was_held:
                return
            self._evictable(current, -1)
            current = current.parent

    def _unpin(self, block: Block) -> None:
        current: Block | None = block
        while current:
            current.pins -= 1
            assert current.pins >= 0, current
            if current.held:
                return
            self._evictable(current, 1)
            current = current.parent

    def counts(self) -> dict[str, int]:
        """Blocks by state, as the statistics show them: free, active (held), cached (named, not held)."""
        free, cached = len(self.free), self.evictable
        return {"free": free, "cached": cached, "active": self.usable - free - cached}

    def audit(self, tables: list[list[int]]) -> None:
        """Check every invariant against the block tables (and held matches) of all owners; asserts with the numbers."""
        refs = [0] * len(self.blocks)
        for table in tables:
            for block_id in table:
                refs[block_id] += 1
        assert refs[0] == 0, "the null block is in a table"
        assert len(set(self.free)) == len(self.free), "a block is on the free list twice"
        children: dict[int, int] = {}
        pins: dict[int, int] = {}
        for block in self.blocks:
            if block.parent:
                children[block.parent.id] = children.get(block.parent.id, 0) + 1
                pins[block.parent.id] = pins.get(block.parent.id, 0) + block.held
        evictable = 0
        for block in self.blocks[1:]:
            self._audit_block(block, refs[block.id], children.get(block.id, 0), pins.get(block.id, 0))
            evictable += block.state is BlockState.CACHED and not block.held
        assert evictable == self.evictable, (evictable, self.evictable)
        leased = [b for b in self.blocks if b.hard]
        assert len(leased) == self.leased, (len(leased), self.leased)
        locked = sum(not b.held for b in leased)
        assert locked == self.locked, (locked, self.locked)
        soft = [b for b in self.blocks if b.soft]
        spared = sum(not b.held and not b.hard for b in soft)
        assert (len(soft), spared) == (self.softly_leased, self.spared), (self.softly_leased, self.spared)
        free = sum(b.state is BlockState.FREE for b in self.blocks)
        assert free == len(self.free), (free, len(self.free))
        named = sum(b.state is BlockState.CACHED for b in self.blocks)
        assert named == len(self.index) == len(self.branches), (named, len(self.index), len(self.branches))

    def _audit_block(self, block: Block, refs: int, children: int, pins: int) -> None:
        assert block.ref == refs, f"{block} is in {refs} tables"
        assert (block.children, block.pins) == (children, pins), f"{block} has {children} children, {pins} held"
        if block.state is BlockState.FREE:
            assert block.ref == 0 and block.hash is None and block.id in self.free, block
        elif block.state is BlockState.OWNED:
            assert block.ref > 0 and block.hash is None and block.children == 0, block
        else:
            assert block.state is BlockState.CACHED and block.hash is not None, block
            assert self.index[block.hash] is block, block
            assert block.parent is None or block.parent.state is BlockState.CACHED, block
            assert not (block.is_tail and block.children), block
