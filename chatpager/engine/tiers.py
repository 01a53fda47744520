"""Where KV blocks live that are not on the device: host memory, then disk.

A block is demoted to host memory when the device evicts it, if it was worth something to somebody, and written to disk
when the conversation it belongs to ends a turn. It is brought back when a prompt asks for it and nothing before it is
missing: a lower tier can cost a hit, and never gives a wrong one. What would take longer to read than to compute again
is left where it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from chatpager.config import EngineConfig
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.host_tier import HostTier
from chatpager.errors import ConfigError

GIB = 1 << 30
SMOOTHING = 0.2
"""Weight of the latest measurement in a moving average."""
FORGIVENESS = 0.98
"""What a tier that was too slow seems to take, each time it is passed over: a moment's stall is not held against it
for ever."""


class Source(StrEnum):
    HOST = "host"
    DISK = "disk"


class Pages(Protocol):
    """The KV cache's content, by block. ``read`` and ``write`` are copies: the bytes belong to the caller."""

    @property
    def block_bytes(self) -> int: ...

    def read_blocks(self, ids: Iterable[int]) -> list[bytes]: ...

    def write_blocks(self, ids: Iterable[int], contents: Iterable[bytes]) -> None: ...


@dataclass
class Average:
    """A moving average of seconds; None until something was measured."""

    seconds: float | None = None

    def add(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds is None else self.seconds + SMOOTHING * (seconds - self.seconds)


@dataclass
class TierStats:
    demoted_blocks: int = 0
    passed_over: int = 0
    """Searches of the disk that ended because computing is faster."""


class Tiers:
    """Both lower tiers of one engine; either may be missing. ``compute_seconds`` is what the engine takes to compute
    a block, as far as it knows."""

    def __init__(
        self,
        pages: Pages,
        *,
        host: HostTier | None = None,
        disk: DiskTier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host, self.disk = host, disk
        self.stats = TierStats()
        self.compute_seconds = Average()
        self.read_seconds = Average()
        self._pages = pages
        self._clock = clock

    # -- downwards ----------------------------------------------------------------------------------------------------

    def demote(self, blocks: Sequence[tuple[BlockProof, int]]) -> None:
        """Keep evicted blocks, named by proof and id, in host memory. Called before anything is written over them."""
        if self.host is None or not blocks:
            return
        contents = self._pages.read_blocks([block_id for _, block_id in blocks])
        for (proof, _), content in zip(blocks, contents, strict=True):
            self.host.put(proof, content)
        self.stats.demoted_blocks += len(blocks)

    def save(self, owner: str, blocks: Sequence[tuple[BlockProof, int]]) -> None:
        """Write to disk what a conversation consists of, and those of its blocks that are not there."""
        if self.disk is None:
            return
        self.disk.keep_head(owner, [proof for proof, _ in blocks])
        fresh = [(proof, block_id) for proof, block_id in blocks if proof not in self.disk]
        if fresh:
            contents = self._pages.read_blocks([block_id for _, block_id in fresh])
            for (proof, _), content in zip(fresh, contents, strict=True):
                self.disk.save(proof, content)

    # -- upwards ------------------------------------------------------------------------------------------------------

    def __contains__(self, proof: BlockProof) -> bool:
        return (self.host is not None and proof in self.host) or (self.disk is not None and proof in self.disk)

    def holdings(self, proofs: Iterable[BlockProof]) -> Counter[Source]:
        """Blocks of a chain by where they are, until the first that is nowhere."""
        found: Counter[Source] = Counter()
        for proof in proofs:
            if self.host is not None and proof in self.host:
                found[Source.HOST] += 1
            elif self.disk is not None and proof in self.disk:
                found[Source.DISK] += 1
            else:
                break
        return found

    def find(self, proof: BlockProof) -> tuple[bytes, Source] | None:
        """A block's content and where it was. Host memory gives it away: a block that is not brought back after all
        must be put there again."""
        if self.host is not None and (content := self.host.take(proof)) is not None:
            return content, Source.HOST
        if self.disk is None or proof not in self.disk:
            return None
        if self._is_slower_than_computing():
            return None
        began = self._clock()
        read = self.disk.find(proof)
        self.read_seconds.add(self._clock() - began)
        if read is None or len(read) != self._pages.block_bytes:
            return None
        return read, Source.DISK

    def is_back(self, proof: BlockProof) -> None:
        """The device has this block again, computed anew: it is not kept twice."""
        if self.host is not None:
            self.host.take(proof)

    def restore(self, ids: Sequence[int], contents: Sequence[bytes]) -> None:
        """Write contents that ``find`` gave into blocks of the device."""
        self._pages.write_blocks(ids, contents)

    def _is_slower_than_computing(self) -> bool:
        reading, computing = self.read_seconds.seconds, self.compute_seconds.seconds
        if reading is None or computing is None or reading <= computing:
            return False
        self.read_seconds.seconds = reading * FORGIVENESS
        self.stats.passed_over += 1
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def forget(self, proofs: Sequence[BlockProof]) -> None:
        """These blocks must not be found again, anywhere."""
        for proof in proofs:
            if self.host is not None:
                self.host.take(proof)
            if self.disk is not None:
                self.disk.forget(proof)

    def drop(self, owner: str) -> None:
        """The conversation was deleted."""
        if self.disk is not None:
            self.disk.drop_head(owner)

    def clear(self) -> None:
        for tier in (self.host, self.disk):
            if tier is not None:
                tier.clear()

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()


def open_tiers(config: EngineConfig, pages: Pages, domain: BlockProof) -> Tiers | None:
    """The lower tiers that ``config`` asks for, if any, for a model with this ``domain``.

    Raises:
        ConfigError: the folder for the disk tier cannot be used.
    """
    host = disk = None
    if blocks := int(config.swap_space * GIB) // pages.block_bytes:
        host = HostTier(blocks)
    if config.kv_dir and config.disk_space:
        try:
            disk = DiskTier(Path(config.kv_dir).expanduser(), int(config.disk_space * GIB), domain)
        except OSError as error:
            raise ConfigError("kv_dir", f"cannot be used: {error}", value=config.kv_dir) from error
    return Tiers(pages, host=host, disk=disk) if host is not None or disk is not None else None
