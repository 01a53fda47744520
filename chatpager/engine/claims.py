"""Who is computing which block of a prompt right now, so that nobody computes it a second time."""

from __future__ import annotations

from chatpager.engine.block_hash import BlockHash
from chatpager.engine.sequence import Sequence


class Claims:
    """A running sequence claims the blocks of its prompt that it has yet to compute; whoever would have to compute one
    of them first waits. The first to claim a block has it."""

    def __init__(self) -> None:
        self._owners: dict[BlockHash, Sequence] = {}

    def __contains__(self, name: BlockHash) -> bool:
        return name in self._owners

    def take(self, seq: Sequence) -> None:
        """Claim every full block of the prompt behind those that were found in the cache."""
        seq.claims = range(seq.written, len(seq) // seq.hasher.block_size)
        for name in seq.full_hashes(seq.claims.stop)[seq.claims.start :]:
            self._owners.setdefault(name, seq)

    def drop(self, seq: Sequence, upto: int) -> None:
        """Blocks before ``upto`` are computed now, or never will be by this sequence."""
        done = range(seq.claims.start, min(seq.claims.stop, upto))
        for i in done:
            if self._owners.get(seq.hashes[i]) is seq:
                del self._owners[seq.hashes[i]]
        if done:
            seq.claims = range(done.stop, seq.claims.stop)
