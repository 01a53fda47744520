"""The KV cache's content, by block, as the lower tiers copy it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from chatpager.engine.host_tier import Content

COPIED_TOGETHER = 64
"""Blocks of one copy."""


class Pages(Protocol):
    """``read_blocks`` and ``write_blocks`` are copies: the bytes belong to the caller."""

    @property
    def block_bytes(self) -> int: ...

    def read_blocks(self, ids: Iterable[int]) -> Sequence[Content]: ...

    def write_blocks(self, ids: Iterable[int], contents: Iterable[Content]) -> None: ...


@runtime_checkable
class Launched(Protocol):
    """Pages whose copies may be going on after they were asked for."""

    @property
    def copies_later(self) -> bool: ...

    def wait_for_copies(self) -> float:
        """Until what was asked for last is done. Returns the seconds it took, without what it waited for."""
