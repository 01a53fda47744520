"""Cached blocks by what they go on from, to share less than a whole block of them.

A prompt that leaves the cache's chains inside a block (a conversation's last tokens rarely fill one, a fork or an edit
rarely begins at the edge of one) copies that block and computes what comes after the tokens they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from chatpager.engine.block import Block
from chatpager.engine.block_hash import BlockProof

MOST_COMPARED = 32
"""Blocks that go on from one place with one token, the latest first; a place where more do is a popular one."""

Place = tuple[BlockProof, int, int]
"""The chain's domain, the parent's id (0: none) and the first token."""


class Branches:
    """Domains apart: what another tenant has is not even compared with."""

    def __init__(self) -> None:
        self._at: dict[Place, dict[int, Block]] = {}

    def add(self, block: Block) -> None:
        self._at.setdefault(_place(block), {})[block.id] = block

    def remove(self, block: Block) -> None:
        place = _place(block)
        blocks = self._at[place]
        del blocks[block.id]
        if not blocks:
            del self._at[place]

    def closest(self, domain: BlockProof, parent: Block | None, tokens: Sequence[int]) -> tuple[Block, int] | None:
        """The block behind ``parent`` that begins with the most of ``tokens``, and how many that are."""
        blocks = self._at.get((domain, parent.id if parent else 0, tokens[0]), {})
        best, most = None, 0
        for block in islice(reversed(blocks.values()), MOST_COMPARED):
            count = _common(block.tokens, tokens)
            if count > most:
                best, most = block, count
        return (best, most) if best else None

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))


def _place(block: Block) -> Place:
    return block.domain, block.parent.id if block.parent else 0, block.tokens[0]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
