"""Blocks that are kept free: for sequences that are not preempted again, and for prompts that were begun."""

from __future__ import annotations

from collections.abc import Iterable

from chatpager.engine.block_pool import BlockPool
from chatpager.engine.sequence import Sequence


class Promises:
    """One that was preempted ``max_preemptions`` times is promised all that it can ever need when it is admitted."""

    def __init__(self, pool: BlockPool, block_size: int, max_preemptions: int) -> None:
        self._pool = pool
        self._block_size = block_size
        self._max_preemptions = max_preemptions
        self._made: list[Sequence] = []

    @property
    def unpromised(self) -> int:
        """Blocks that anybody may take."""
        return self._pool.available - sum(map(self._rest, self._made))

    def allocatable(self, seq: Sequence) -> int:
        """Blocks that ``seq`` may take: those available, less what is promised to others."""
        return self._pool.available - sum(self._rest(s) for s in self._made if s is not seq)

    def is_immune(self, seq: Sequence) -> bool:
        """Whether it was preempted too often to be preempted again."""
        return seq.preemptions >= self._max_preemptions

    def needed(self, seq: Sequence) -> int:
        """Blocks without which it is not admitted: those of its whole prompt, or all it can ever need."""
        return self._most(seq) if self.is_immune(seq) else self._blocks(len(seq))

    def begun(self, running: Iterable[Sequence]) -> int:
        """Blocks that prompts which are computed still have to take: theirs before anyone is admitted."""
        return sum(
            max(0, self._blocks(len(s)) - len(s.block_table))
            for s in running
            if s.remaining > 1 and not self.is_immune(s)
        )

    def make(self, seq: Sequence) -> None:
        """It is admitted."""
        if self.is_immune(seq):
            self._made.append(seq)

    def end(self, seq: Sequence) -> None:
        if seq in self._made:
            self._made.remove(seq)

    def _rest(self, seq: Sequence) -> int:
        return max(0, self._most(seq) - len(seq.block_table))

    def _most(self, seq: Sequence) -> int:
        return self._blocks(seq.max_length) + 1

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)
