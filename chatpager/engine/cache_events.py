"""What came into the prefix cache and what left it, numbered, for whoever places requests by what a server has.

The latest events are kept; who has missed some is told so and begins again with what there is now (as consumers of
vLLM's and TensorRT-LLM's KV events do).
"""

from __future__ import annotations

import secrets
from collections import deque
from itertools import islice
from typing import Literal, NamedTuple

from chatpager.engine.block_hash import BlockHash

KEPT = 1 << 16

Happened = Literal["block.stored", "block.removed"]


class CacheEvent(NamedTuple):
    """``parent`` is the block before it in its chain, None of a first one and of what was removed."""

    number: int
    type: Happened
    block: BlockHash
    parent: BlockHash | None


class CacheEvents:
    """Numbers begin with 1. At most ``kept`` of the latest can be asked for."""

    def __init__(self, kept: int = KEPT) -> None:
        self.epoch = secrets.token_hex(8)
        """Numbers of another epoch mean nothing here: the server was started anew."""
        self.last = 0
        self._events: deque[CacheEvent] = deque(maxlen=kept)

    def stored(self, block: BlockHash, parent: BlockHash | None) -> None:
        self._add("block.stored", block, parent)

    def removed(self, block: BlockHash) -> None:
        self._add("block.removed", block, None)

    def _add(self, type: Happened, block: BlockHash, parent: BlockHash | None) -> None:
        self.last += 1
        self._events.append(CacheEvent(self.last, type, block, parent))

    def since(self, number: int, limit: int) -> tuple[list[CacheEvent], int]:
        """At most ``limit`` events after ``number``, and how many of those that came after it are not kept any more.
        Of a number that there has not been yet all are missed."""
        if number > self.last:
            return [], number
        oldest = self.last - len(self._events) + 1
        missed = max(0, oldest - 1 - number)
        start = max(0, number + 1 - oldest)
        return list(islice(self._events, start, start + limit)), missed
