"""Prefixes that an operator publishes: their blocks are everybody's, what stands behind them is its tenant's alone.

A prefix is a whole number of blocks. A prompt that begins with all of it, token by token, names these blocks in the
public domain, and of several the longest counts. The prefixes stand in a tree of blocks, so that a prompt is compared
with no more tokens than it shares with them, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chatpager.engine.block_hash import BlockHash, BlockHasher, BlockProof
from chatpager.errors import InvalidRequest

OWNER = "\0published\0"
"""Begins the names of their heads; no session's name begins like this, because no tenant's does."""


@dataclass(frozen=True, eq=False)
class PublishedPrefix:
    """``names`` and ``proofs`` are of its blocks, in the public domain."""

    label: str
    token_ids: tuple[int, ...]
    names: tuple[BlockHash, ...]
    proofs: tuple[BlockProof, ...]

    @property
    def blocks(self) -> int:
        return len(self.names)

    @property
    def owner(self) -> str:
        """Of its head."""
        return owner_of(self.label)


def owner_of(label: str) -> str:
    return OWNER + label


@dataclass
class _Node:
    """A block of some prefixes. ``ends``: those that end with it, the one published first in front."""

    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    ends: list[PublishedPrefix] = field(default_factory=list)


class PublishedPrefixes:
    """``hasher`` is that of the public domain."""

    def __init__(self, hasher: BlockHasher, vocab_size: int) -> None:
        self.hasher = hasher
        self._vocab_size = vocab_size
        self._prefixes: dict[str, PublishedPrefix] = {}
        self._root = _Node()

    def __iter__(self) -> Iterator[PublishedPrefix]:
        return iter(self._prefixes.values())

    def get(self, label: str) -> PublishedPrefix | None:
        return self._prefixes.get(label)

    def publish(self, label: str, token_ids: Sequence[int]) -> PublishedPrefix:
        """Publish these tokens; again it changes nothing.

        Raises:
            InvalidRequest: they are no whole number of blocks or none of the model's, or the label has others.
        """
        known, tokens = self._prefixes.get(label), tuple(token_ids)
        if known is not None and known.token_ids != tokens:
            raise InvalidRequest(f"the label {label!r} has other tokens; withdraw it first", param="label")
        size = self.hasher.block_size
        if not tokens or len(tokens) % size:
            raise InvalidRequest(f"{len(tokens)} tokens are no whole blocks of {size}", param="token_ids")
        if min(tokens) < 0 or max(tokens) >= self._vocab_size:
            raise InvalidRequest(f"a token is outside 0..{self._vocab_size - 1}", param="token_ids")
        return known or self._add(label, tokens)

    def _add(self, label: str, tokens: tuple[int, ...]) -> PublishedPrefix:
        node, names, proofs = self._root, [self.hasher.root], [self.hasher.proof]
        for block in self._blocks(tokens):
            names.append(self.hasher.chain(names[-1], block))
            proofs.append(self.hasher.prove(proofs[-1], block))
            node = node.children.setdefault(block, _Node())
        prefix = self._prefixes[label] = PublishedPrefix(label, tokens, tuple(names[1:]), tuple(proofs[1:]))
        node.ends.append(prefix)
        return prefix

    def withdraw(self, label: str) -> PublishedPrefix | None:
        """What was published under this label and is not any more."""
        prefix = self._prefixes.pop(label, None)
        if prefix is None:
            return None
        path = [self._root]
        blocks = self._blocks(prefix.token_ids)
        for block in blocks:
            path.append(path[-1].children[block])
        path[-1].ends.remove(prefix)
        for block, parent, node in zip(reversed(blocks), reversed(path[:-1]), reversed(path[1:]), strict=True):
            if node.ends or node.children:
                break
            del parent.children[block]
        return prefix

    def longest(self, token_ids: Sequence[int]) -> PublishedPrefix | None:
        """The longest prefix that a prompt begins with."""
        node, found, size = self._root, None, self.hasher.block_size
        for start in range(0, len(token_ids) - size + 1, size):
            child = node.children.get(tuple(token_ids[start : start + size]))
            if child is None:
                break
            node, found = child, child.ends[0] if child.ends else found
        return found

    def _blocks(self, tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
        size = self.hasher.block_size
        return [tokens[start : start + size] for start in range(0, len(tokens), size)]
