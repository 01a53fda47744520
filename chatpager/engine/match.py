"""What a prompt found in the cache, and what all of them found together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatpager.engine.block import Block, EvictionClass
from chatpager.engine.histogram import Histogram
from chatpager.engine.reading import Source

if TYPE_CHECKING:
    from chatpager.engine.prefix_cache import PrefixCache


AGES = -4, 17
"""A sixteenth of a second to a day and a half."""


class Match:
    """Cached blocks of one prompt, held until ``commit`` or ``rollback``; one of the two must be called, once."""

    __slots__ = ("_cache", "_open", "blocks", "restored", "tail", "tail_tokens")

    def __init__(self, cache: PrefixCache, blocks: list[Block]) -> None:
        self._cache = cache
        self._open = True
        self.blocks = blocks
        self.restored: Counter[Source] = Counter()
        """Those of the blocks that came from a lower tier."""
        self.tail: Block | None = None
        """A block of which the first ``tail_tokens`` go on from the others; its holder copies it before it writes."""
        self.tail_tokens = 0

    @property
    def tokens(self) -> int:
        return len(self.blocks) * self._cache.block_size + self.tail_tokens

    def commit(self) -> list[int]:
        """Hand the held blocks over to a block table."""
        self._close()
        return [block.id for block in self._held()]

    def rollback(self) -> None:
        """Let go of the blocks as if nobody had looked: their place in the eviction order does not change."""
        self._close()
        for block in reversed(self._held()):
            self._cache.let_go(block, touch=False)

    def _held(self) -> list[Block]:
        return [*self.blocks, self.tail] if self.tail else self.blocks

    def _close(self) -> None:
        assert self._open, "a match was committed or rolled back twice"
        self._open = False


@dataclass
class CacheStats:
    """Counted once a request, at its first admission; preempted requests' second looks are not hits."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    """On any tier."""
    restored_tokens: Counter[Source] = field(default_factory=Counter)
    """Those of them that were not on the device."""
    failed_restores: int = 0
    evicted_blocks: Counter[EvictionClass] = field(default_factory=Counter)
    lost_tokens: int = 0
    """Of the prompts, in blocks that had been evicted."""
    lost_within_double: int = 0
    """Those of them that twice the pool would have kept."""
    evict_age: Histogram = field(default_factory=lambda: Histogram(*AGES))
    """Of evicted blocks, since they were used."""
    reuse_gap: Histogram = field(default_factory=lambda: Histogram(*AGES))
    """Of blocks that were found on the device, since they were used before."""
    collisions: int = 0
    """Names that were taken by other content (or hits refused because the tokens differed)."""
