"""Blocks of several pools under numbers of one: each replica's behind those of the replica before."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from chatpager.engine.block_map import BlockCode, BlockFacts
from chatpager.engine.questions import Changes


class BlockNumbers:
    """``sizes``: usable blocks by replica. A replica's next engine may have another pool, of another size: then all
    blocks get other numbers, which is another epoch, and are told anew, as each engine tells of a block but once."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._pools = {replica: _Pool("", size) for replica, size in sizes.items()}
        self._number()

    def _number(self) -> None:
        self._epoch = secrets.token_hex(8)
        self._firsts: dict[str, int] = {}
        self._total = 0
        for replica, pool in self._pools.items():
            self._firsts[replica] = self._total
            self._total += pool.size

    def find(self, block_id: int) -> tuple[str, int] | None:
        """The replica, and its own number; None: there is no such block."""
        for replica, first in self._firsts.items():
            if first < block_id <= first + self._pools[replica].size:
                return replica, block_id - first
        return None

    def facts(self, replica: str, facts: BlockFacts) -> BlockFacts:
        first = self._firsts[replica]
        parent = None if facts.parent is None else facts.parent + first
        return msgspec.structs.replace(facts, id=facts.id + first, parent=parent)

    def changes(self, told: Sequence[tuple[str, Changes]]) -> Changes:
        blocks: list[tuple[int, int, int]] = []
        resized = False
        for replica, changes in told:
            pool = self._pools[replica]
            if changes.epoch != pool.epoch:
                blocks += [(self._firsts[replica] + id, BlockCode.FREE, 0) for id, _, _ in pool.used()]
                resized |= changes.total != pool.size
                pool = self._pools[replica] = _Pool(changes.epoch, changes.total)
            pool.take(changes.blocks)
            blocks += self._numbered(replica, changes.blocks)
        if resized:
            self._number()
            blocks = [block for name, pool in self._pools.items() for block in self._numbered(name, pool.used())]
        return Changes(self._epoch, self._total, blocks, any(changes.more for _, changes in told))

    def _numbered(self, replica: str, blocks: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
        first = self._firsts[replica]
        return ((first + id, code, first + parent if parent else 0) for id, code, parent in blocks)


class _Pool:
    """What an engine, which its ``epoch`` names, has told of its blocks."""

    def __init__(self, epoch: str, size: int) -> None:
        self.epoch, self.size = epoch, size
        self._codes = bytearray(size + 1)
        self._parents = array("I", bytes(4 * (size + 1)))

    def take(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        for id, code, parent in blocks:
            self._codes[id], self._parents[id] = code, parent

    def used(self) -> Iterator[tuple[int, int, int]]:
        return ((id, code, self._parents[id]) for id, code in enumerate(self._codes) if code)
