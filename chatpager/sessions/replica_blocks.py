"""Blocks of several pools under numbers of one: each replica's behind those of the replica before."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from chatpager.engine.block_map import BlockCode, BlockFacts
from chatpager.engine.questions import Changes


class BlockNumbers:
    """``sizes``: usable blocks by replica."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = dict(sizes)
        self._firsts: dict[str, int] = {}
        self._total = 0
        for replica, size in self._sizes.items():
            self._firsts[replica] = self._total
            self._total += size
        self._epoch = secrets.token_hex(8)
        self._emptied: set[str] = set()

    def find(self, block_id: int) -> tuple[str, int] | None:
        """The replica, and its own number; None: there is no such block."""
        for replica, first in self._firsts.items():
            if first < block_id <= first + self._sizes[replica]:
                return replica, block_id - first
        return None

    def facts(self, replica: str, facts: BlockFacts) -> BlockFacts:
        first = self._firsts[replica]
        parent = None if facts.parent is None else facts.parent + first
        return msgspec.structs.replace(facts, id=facts.id + first, parent=parent)

    def emptied(self, replica: str) -> None:
        """Another engine's pool is in its place."""
        self._emptied.add(replica)

    def changes(self, told: Sequence[tuple[str, Changes]]) -> Changes:
        blocks: list[tuple[int, int, int]] = []
        for replica, changes in told:
            first = self._firsts[replica]
            if replica in self._emptied:
                self._emptied.discard(replica)
                blocks += [(first + i, BlockCode.FREE, 0) for i in range(1, self._sizes[replica] + 1)]
            blocks += [(first + id, code, first + parent if parent else 0) for id, code, parent in changes.blocks]
        return Changes(self._epoch, self._total, blocks, any(changes.more for _, changes in told))
