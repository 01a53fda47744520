"""KV blocks in host memory: what the device gave up, until it is wanted again or others need the room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol, runtime_checkable

from chatpager.engine.block_hash import BlockProof

ENTRY_BYTES = 256
"""Of memory that a block takes besides its content: its proof, both objects' heads, and a place in a table."""


class Content(Protocol):
    """Of a block: its bytes, or what becomes them once a GPU's copy is done."""

    def __len__(self) -> int: ...

    def __bytes__(self) -> bytes: ...


@runtime_checkable
class Pending(Content, Protocol):
    @property
    def is_there(self) -> bool: ...


def is_there(content: Content) -> bool:
    """Whether nobody waits who asks for its bytes."""
    return not isinstance(content, Pending) or content.is_there


class HostTier:
    """At most ``capacity`` blocks. The one that has been dead for longest goes first, and while none is dead the one
    put in longest ago: dead is what conversations contained and none does any more."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._alive: OrderedDict[BlockProof, Content] = OrderedDict()
        self._dead: OrderedDict[BlockProof, Content] = OrderedDict()

    def __len__(self) -> int:
        return len(self._alive) + len(self._dead)

    def __contains__(self, proof: BlockProof) -> bool:
        return proof in self._alive or proof in self._dead

    def put(self, proof: BlockProof, content: Content, *, dead: bool = False) -> None:
        self.take(proof)
        (self._dead if dead else self._alive)[proof] = content
        self.give_up(len(self) - self.capacity)

    def give_up(self, count: int) -> None:
        """So many blocks that go first, if there are as many."""
        for _ in range(min(count, len(self))):
            (self._dead or self._alive).popitem(last=False)

    def take(self, proof: BlockProof) -> Content | None:
        """Its content, which from now on is the caller's: a block that is back on the device is not kept twice."""
        return self._alive.pop(proof, None) or self._dead.pop(proof, None)

    def bury(self, proof: BlockProof) -> None:
        """No conversation contains it any more."""
        if (content := self._alive.pop(proof, None)) is not None:
            self._dead[proof] = content

    def clear(self) -> None:
        self._alive.clear()
        self._dead.clear()
