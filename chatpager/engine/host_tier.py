"""KV blocks in host memory: what the device gave up, until it is wanted again or others need the room."""

from __future__ import annotations

from collections import OrderedDict

from chatpager.engine.block_hash import BlockProof


class HostTier:
    """At most ``capacity`` blocks; the one put in longest ago goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._blocks: OrderedDict[BlockProof, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, proof: BlockProof) -> bool:
        return proof in self._blocks

    def put(self, proof: BlockProof, content: bytes) -> None:
        self._blocks.pop(proof, None)
        self._blocks[proof] = content
        while len(self._blocks) > self.capacity:
            self._blocks.popitem(last=False)

    def take(self, proof: BlockProof) -> bytes | None:
        """Its content, which from now on is the caller's: a block that is back on the device is not kept twice."""
        return self._blocks.pop(proof, None)

    def clear(self) -> None:
        self._blocks.clear()
