"""Going on from what the device has of a prompt with what the lower tiers have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatpager.engine.block_hash import BlockProof
from chatpager.engine.host_tier import Content
from chatpager.engine.match import Match
from chatpager.engine.reading import Reading, Source
from chatpager.engine.sequence import Sequence

if TYPE_CHECKING:
    from chatpager.engine.prefix_cache import PrefixCache
    from chatpager.engine.tiers import Tiers

log = logging.getLogger(__name__)

Found = tuple[BlockProof, Content, Source]
"""A block that a lower tier had: its content and where it was."""


class Restoring:
    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._pool = cache.pool

    @property
    def _tiers(self) -> Tiers | None:
        """None: there are none, and the device's cache is all there is."""
        return self._cache.tiers

    def reach(self, seq: Sequence) -> int:
        """Leading blocks of ``seq`` that some tier had when this was first asked, or the device has now."""
        on_device = self._cache.peek(seq)
        if self._tiers is None or not self._cache.enabled:
            return on_device
        if seq.reach is None:
            seq.reach = on_device
            for proof in self._proofs(seq, on_device):
                if proof not in self._tiers:
                    break
                seq.reach += 1
        return max(seq.reach, on_device)

    def _proofs(self, seq: Sequence, start: int) -> Iterator[BlockProof]:
        """The proofs of the blocks of ``seq`` that a match may cover, from ``start`` on; those before are CACHED."""
        proof = self._pool.index[seq.hashes[start - 1]].proof if start else seq.hasher.proof
        for i in range(start, self._cache.matchable_blocks(seq)):
            proof = seq.hasher.prove(proof, seq.block_tokens(i))
            yield proof

    def restore(self, seq: Sequence, match: Match, *, at_once: bool = True) -> bool:
        """Continue a match with blocks of the lower tiers, as far as they go without a gap. There must be room for
        them; they are held and CACHED like those before. Where it is interrupted, what was found stays where it was.
        False: not ``at_once``, and the step's time for reading is over before they are all there."""
        if self._tiers is None or not self._cache.enabled:
            return True
        if seq.reading is None:
            seq.reading = Reading(self._cache.matchable_blocks(seq) - len(match.blocks))
        match.restored = seq.reading.sources(match.blocks)
        whole = True
        found: list[Found] = []
        ids: list[int] = []
        try:
            whole = self._find_below(seq, len(match.blocks), found, at_once)
            if found:
                ids = self._cache.allocate(len(found), by=seq.owner)
                self._tiers.restore(ids, found)
        except BaseException as error:
            self._cache.free(ids)
            self._tiers.take_back(found)
            if not isinstance(error, Exception):
                raise
            self._cache.stats.failed_restores += 1
            log.error("%d KV blocks were not restored", len(found), exc_info=error)
        else:
            self._enter(seq, match, ids, found)
        if whole:
            seq.reach = len(match.blocks)
        return whole

    def _find_below(self, seq: Sequence, start: int, found: list[Found], at_once: bool) -> bool:
        assert self._tiers is not None and seq.reading is not None
        names = seq.full_hashes(self._cache.matchable_blocks(seq))
        for name, proof in zip(names[start:], self._proofs(seq, start), strict=True):
            if name in self._pool.index:
                break  # (it has another content behind it)
            if not at_once and not seq.reading.given_up and self._tiers.is_over(proof):
                return False
            if (kept := self._tiers.find(proof, seq.reading)) is None:
                break
            found.append((proof, *kept))
        return True

    def _enter(self, seq: Sequence, match: Match, ids: list[int], found: list[Found]) -> None:
        """The blocks ``ids`` have the contents: name them. They were wanted, and are worth something from now on."""
        assert seq.reading is not None
        for block_id, (proof, _, source) in zip(ids, found, strict=True):
            block, i = self._pool.blocks[block_id], len(match.blocks)
            parent = match.blocks[-1] if match.blocks else None
            self._pool.name(block, seq.hashes[i], parent, seq.block_tokens(i), domain=seq.domain(i))
            block.proof, block.hits, block.last_use = proof, 1, self._pool.clock
            self._cache.ghosts.forget(seq.hashes[i])
            match.blocks.append(block)
            match.restored[source] += 1
            seq.reading.brought(block, source)
