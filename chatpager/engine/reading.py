"""How long a prompt's blocks are read from disk before computing them is better.

Files are read while the engine's thread waits: to share the interpreter with the steps costs a thread more than most
reads take. So they are read in slices where others have something to compute, and only for as long as they come faster
than they could be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from chatpager.engine.block import Block

SLICE_SECONDS = 0.01
"""Of each step in which others compute; the file that is being read is read to its end."""
PATIENCE = 0.1
"""Of the time that computing all of it would take, the part that may be lost to the disk."""
LEAST_PATIENCE = 0.02
"""Seconds; less says nothing about a disk."""
SLOWEST_SECONDS = 1.0
"""For one block, while nothing is known of what computing takes."""


class Source(StrEnum):
    HOST = "host"
    DISK = "disk"


class Reading:
    """What one prompt, of which ``missing`` blocks were not on the device, has had of the lower tiers."""

    __slots__ = ("_brought", "_missing", "blocks", "given_up", "seconds", "tried")

    def __init__(self, missing: int) -> None:
        self._missing = missing
        self._brought: dict[tuple[int, int], Source] = {}
        """By id and ``born``; they may have been evicted again."""
        self.blocks = 0
        """Read from disk, in ``seconds``."""
        self.seconds = 0.0
        self.tried = 0
        """Blocks that host memory was asked for."""
        self.given_up = False
        """Nothing more is read from disk."""

    def read(self, seconds: float, compute_seconds: float | None) -> bool:
        """A block took ``seconds``. True: that was too long, and it is given up. ``compute_seconds`` is what computing
        one takes, if that is known."""
        self.seconds += seconds
        self.blocks += 1
        if compute_seconds is None:
            self.given_up = seconds > SLOWEST_SECONDS
        else:
            patience = max(LEAST_PATIENCE, PATIENCE * self._missing * compute_seconds)
            self.given_up = self.seconds > patience + self.blocks * compute_seconds
        return self.given_up

    def brought(self, block: Block, source: Source) -> None:
        self._brought[block.id, block.born] = source

    def sources(self, blocks: Iterable[Block]) -> Counter[Source]:
        """Of a prompt's blocks those that came from below, by where they came from."""
        found = (self._brought.get((block.id, block.born)) for block in blocks)
        return Counter(source for source in found if source is not None)
