"""Names of blocks that were evicted lately: what a prompt would have found, who pushed it out, and what twice the
memory would have kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from chatpager.engine.block import EvictionClass
from chatpager.engine.block_hash import BlockHash


class Eviction(NamedTuple):
    """How a block was lost. ``order`` counts evictions, ``by`` is the session that needed the room, if one did."""

    at: float
    order: int
    eviction_class: EvictionClass
    by: str


class GhostIndex:
    """The last ``capacity`` evictions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.evictions = 0
        self._names: OrderedDict[BlockHash, Eviction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def put(self, name: BlockHash, at: float, eviction_class: EvictionClass, by: str) -> None:
        self.evictions += 1
        self._names.pop(name, None)
        self._names[name] = Eviction(at, self.evictions, eviction_class, by)
        if len(self._names) > self.capacity:
            self._names.popitem(last=False)

    def get(self, name: BlockHash) -> Eviction | None:
        return self._names.get(name)

    def forget(self, name: BlockHash) -> None:
        """The block is back in the cache."""
        self._names.pop(name, None)

    def within(self, eviction: Eviction, blocks: int) -> bool:
        """Whether a pool with so many more blocks would still have had it: no more than that were evicted since."""
        return self.evictions - eviction.order < blocks
