"""Which blocks sessions' conversations consist of, and which no conversation contains any more.

A session's head is the chain of cached blocks that its conversation ended with; it lifts them above blocks that belong
to no session. Leases on it (``leases``) go with it, as far as the budget does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from chatpager.engine.block import Block
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.block_pool import BlockPool
from chatpager.engine.heads import Head
from chatpager.engine.leases import LeaseBook


class HeadBook:
    """The heads that ``leases`` are on.

    ``reconsider`` is told of every block whose eviction class may have changed, ``bury`` of those that no conversation
    contains any more, wherever they are. At most ``max_heads`` sessions without a lease are kept.
    """

    def __init__(
        self,
        leases: LeaseBook,
        block_size: int,
        *,
        reconsider: Callable[[Block], None],
        bury: Callable[[Sequence[BlockProof]], None],
        max_heads: int,
    ) -> None:
        self._leases = leases
        self._heads = leases.heads
        self._block_size = block_size
        self._reconsider = reconsider
        self._bury = bury
        self._max_heads = max_heads
        self._containing: Counter[BlockProof] = Counter()
        """Conversations that contain a block, on the device or not."""

    def move(self, owner: str, tenant: bytes, chain: Sequence[Block]) -> None:
        """The conversation of ``owner`` now consists of ``chain``. What it no longer contains and no other session
        does is dead at once; its leases follow, as far as the budget goes."""
        head = self._heads.setdefault(owner, Head(tenant))
        self._heads.move_to_end(owner)
        same = 0
        for (block, born), new in zip(head.chain, chain, strict=False):
            if block is not new or block.born != born:
                break
            same += 1
        gone = self._shorten(head, same)
        for block in chain[same:]:
            block.heads += 1
            block.left = False
            head.chain.append((block, block.born))
            if not block.is_tail:
                self._containing[block.proof] += 1
                head.proofs.append(block.proof)
            self._reconsider(block)
        head.tail_tokens = len(chain[-1].tokens) if chain and chain[-1].is_tail else 0
        self._leases.follow(head)
        self._bury([proof for proof in reversed(gone) if proof not in self._containing])
        self._limit_heads()

    def _shorten(self, head: Head, keep: int) -> list[BlockProof]:
        """The conversation contains no more than its first ``keep`` blocks. Those that none does any more."""
        self._leases.shrink(head, keep)
        gone = self._let_go(head.proofs[keep:])
        dead = set(gone)
        for block, born in head.chain[keep:]:
            if block.born == born:
                block.heads -= 1
                block.hits = block.hits if block.heads else 0
                block.left = block.proof in dead
                self._reconsider(block)
        if keep < len(head.chain):
            head.tail_tokens = 0
        del head.chain[keep:], head.proofs[keep:]
        return gone

    def rewind(self, owner: str, tokens: int) -> tuple[BlockProof, ...] | None:
        """The session ends earlier now, with its first ``tokens``; its leases cover no more. What it still has; None of
        one that is not known."""
        head = self._heads.get(owner)
        if head is None:
            return None
        self._bury(self._shorten(head, self._blocks(head, tokens))[::-1])
        return tuple(head.proofs)

    def _let_go(self, proofs: Sequence[BlockProof]) -> list[BlockProof]:
        """A conversation no longer contains these. Those that none does."""
        gone: list[BlockProof] = []
        for proof in proofs:
            self._containing[proof] -= 1
            if self._containing[proof] <= 0:
                del self._containing[proof]
                gone.append(proof)
        return gone

    def fork(self, owner: str, new_owner: str, tokens: int) -> tuple[BlockProof, ...]:
        """A session that begins with the first ``tokens`` of another's head, as far as that goes, has a head of its own
        from the start: its blocks stay when the other one goes. The proofs of the full ones, also of those that are no
        longer cached."""
        head = self._heads.get(owner)
        if head is None:
            return ()
        blocks = self._blocks(head, tokens)
        proofs = head.proofs[:blocks]
        self.move(new_owner, head.tenant, [block for block, _ in head.chain[: min(blocks, head.resident())]])
        child = self._heads[new_owner]
        self._containing.update(proofs[len(child.proofs) :])
        child.proofs = proofs
        return tuple(proofs)

    def _blocks(self, head: Head, tokens: int) -> int:
        """Blocks of a head that hold nothing behind its first ``tokens``: full ones, and its tail if it ends there."""
        blocks = tokens // self._block_size
        ends_there = blocks < head.resident() and head.chain[blocks][0].is_tail
        return blocks + (ends_there and head.tokens(blocks + 1, self._block_size) <= tokens)

    def close(self, owner: str) -> None:
        """The session is gone: its blocks are worth what others make of them, below the device nothing where none
        does."""
        if head := self._heads.pop(owner, None):
            gone = self._drop_head(owner, head)
            dead = set(gone)
            for block, born in head.chain:
                block.left = block.left or (block.born == born and block.proof in dead)
            self._bury(gone[::-1])  # a chain without its end can still be hit

    def _drop_head(self, owner: str, head: Head) -> list[BlockProof]:
        """Blocks that no conversation contains without it."""
        self._leases.drop_all(owner, head)
        for block, born in head.chain:
            if block.born == born:
                block.heads -= 1
                self._reconsider(block)
        return self._let_go(head.proofs)

    def _limit_heads(self) -> None:
        if len(self._heads) > self._max_heads:
            oldest = next((owner for owner, head in self._heads.items() if not head.leases), None)
            if oldest is not None:
                self._drop_head(oldest, self._heads.pop(oldest))  # forgotten: somebody may still go on with it

    def audit(self, pool: BlockPool) -> None:
        """Heads are chains from the root, and every count is the number of heads that contain the block."""
        heads: Counter[int] = Counter()
        for head in self._heads.values():
            for i, (block, born) in enumerate(head.chain):
                if block.born != born:
                    continue
                parent = head.chain[i - 1][0] if i else None
                assert block.parent is parent, f"{block} is no continuation of {parent}"
                heads[block.id] += 1
        containing = Counter(proof for head in self._heads.values() for proof in head.proofs)
        assert self._containing == containing, (len(self._containing), len(containing))
        for block in pool.blocks:
            assert block.heads == heads[block.id], f"{block}: {block.heads} heads, in truth {heads[block.id]}"
