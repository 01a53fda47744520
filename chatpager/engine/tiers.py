"""Where KV blocks live that are not on the device: host memory, then disk.

A block is demoted to host memory when the device evicts it, if it was worth something to somebody, and written to disk
when the conversation it belongs to ends a turn. It is brought back when a prompt asks for it and nothing before it is
missing: a lower tier can cost a hit, and never gives a wrong one. What would take longer to read than to compute again
is left where it is.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from chatpager.config import EngineConfig
from chatpager.engine.block_files import sealed_by
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.block_pool import Block
from chatpager.engine.block_times import Average, BlockTimes
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.histogram import Histogram
from chatpager.engine.host_tier import ENTRY_BYTES, Content, HostTier, is_there
from chatpager.engine.reading import SLICE_SECONDS, Reading, Source
from chatpager.errors import ConfigError

T = TypeVar("T")
log = logging.getLogger(__name__)

GIB = 1 << 30
SAVED_IDLE, SAVED_BUSY = 2 << 20, 1 << 18
"""Bytes that are saved at a time, where nothing waits for a step and where something does."""
DISK_PATIENCE = 0.005
CLOSE_SECONDS = 10.0
COPIED_TOGETHER = 64
"""Blocks of one copy."""
MOST_DEMOTED = 256 << 20
"""Bytes that one allocation may copy to host memory; on a GPU the next step waits for what goes before its end."""
TRIED_BLOCKS = 4
"""Copied at the start to learn what that takes, and of a prompt while that is not known any more."""
LOAD_SECONDS = -17, 3
"""Eight microseconds to eight seconds, as powers of two."""


class Pages(Protocol):
    """The KV cache's content, by block. ``read`` and ``write`` are copies: the bytes belong to the caller."""

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


class Demoted(NamedTuple):
    """A block that the device gives up; ``dead``: no conversation contains it any more."""

    proof: BlockProof
    id: int
    dead: bool


@dataclass
class TierStats:
    demoted_blocks: int = 0
    failed_copies: int = 0
    late_loads: int = 0
    """Prompts for which the disk was given up while it was read."""
    load_seconds: dict[Source, Histogram] = field(
        default_factory=lambda: {source: Histogram(*LOAD_SECONDS) for source in Source}
    )
    """Of a block: from host memory what the copy takes, from disk what reading the file does."""


class Tiers:
    """Both lower tiers of one engine; either may be missing. ``times.compute`` is told by the engine."""

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
        self.times = BlockTimes()
        self._unsaved: deque[tuple[Block, int]] = deque()
        """Blocks on their way to the disk, with their ``born``."""
        self._copied: deque[tuple[Block, int, BlockProof, Content]] = deque()
        """Those of them whose contents are being copied from the device."""
        self._pages = pages
        self._launched: Launched | None = pages if isinstance(pages, Launched) and pages.copies_later else None
        self._clock = clock
        self._read_this_step = 0.0
        """Seconds."""

    def measure(self, ids: Sequence[int]) -> None:
        """Copy the contents of a few blocks out and back: what that takes is not to be learned at a request's cost."""
        for _ in range(2 if self.host is not None else 0):  # the first time is slower than any later one
            self.times.copy_out, self.times.copy_back = Average(), Average()
            if contents := self._read(ids):
                self._write(ids, contents)

    # -- downwards ----------------------------------------------------------------------------------------------------

    def demote(self, blocks: Sequence[Demoted]) -> None:
        """Keep evicted blocks in host memory. Called before anything is written over them."""
        if self.host is None:
            return
        most = min(self.host.capacity, max(1, MOST_DEMOTED // self._pages.block_bytes))
        for group in _groups(blocks[-most:]):  # of a chain, what was evicted last is needed first
            for block, content in zip(group, self._read([block.id for block in group]), strict=False):
                self.host.put(block.proof, content, dead=block.dead)
                self.stats.demoted_blocks += 1

    def _read(self, ids: Sequence[int]) -> Sequence[Content]:
        """Their contents; none where the copy failed, which costs warmth and not the step."""
        began = self._clock()
        try:
            contents = self._read_within_bounds(ids)
            self._took(self.times.copy_out, began, len(ids))
            return contents
        except Exception as error:
            self.stats.failed_copies += 1
            log.error("%d KV blocks were not copied", len(ids), exc_info=error)
            return []

    def _read_within_bounds(self, ids: Sequence[int]) -> Sequence[Content]:
        """Where contents that are being brought back take the room, others that wait in host memory go for these."""
        try:
            return self._pages.read_blocks(ids)
        except MemoryError:
            if self.host is None:
                raise
            self.host.give_up(len(ids))
            return self._pages.read_blocks(ids)

    def _took(self, average: Average, began: float, blocks: int) -> float:
        """Seconds a block. Copies that go on by themselves are waited for where it is not known, or not any more, what
        they take; else they take what they took."""
        if self._launched is not None:
            if average.seconds is not None and not average.forgiven:
                return average.seconds
            seconds = self._launched.wait_for_copies() / blocks
        else:
            seconds = (self._clock() - began) / blocks
        average.add(seconds)
        return seconds

    def bury(self, proofs: Iterable[BlockProof]) -> None:
        """No conversation contains these any more: host memory gives them up before anything else. (The disk does when
        it writes what the conversation consists of now.)"""
        if self.host is not None:
            for proof in proofs:
                self.host.bury(proof)

    def save(self, owner: str, chain: Sequence[Block]) -> None:
        """Write to disk what a conversation consists of now; its blocks follow in ``work``."""
        if self.disk is None or not chain:
            return
        self.disk.look_after()
        self.disk.heads.keep(owner, [block.proof for block in chain])
        self._unsaved.extend((block, block.born) for block in chain if block.proof not in self.disk)
        if not self.has_work:
            self.disk.heads.settle()

    def fork(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """A new conversation consists of these blocks of another one, which are on the disk or on their way there."""
        if self.disk is not None and proofs:
            self.disk.heads.keep(owner, proofs)

    def rewind(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """A conversation consists of no more than these of the blocks that it had."""
        if self.disk is not None:
            self.disk.heads.keep(owner, proofs)

    @property
    def has_work(self) -> bool:
        return bool(self._unsaved or self._copied)

    def give_way(self, wanted: bool) -> None:
        """Whether steps are computed from now on, which the disk's thread must not hold up."""
        if self.disk is not None:
            self.disk.give_way(wanted)

    def work(self, *, idle: bool) -> None:
        """Save some blocks: few, so that the next step need not wait for long. ``idle``: there is no next step yet, and
        the disk may be waited for a little."""
        most = max(1, (SAVED_IDLE if idle else SAVED_BUSY) // self._pages.block_bytes)
        if self.disk is None or not self.has_work or not self.disk.has_room(DISK_PATIENCE if idle else 0.0):
            return
        self._save_copied(self.disk, idle)
        if not self._copied:
            self._copy_unsaved(most)
            self._save_copied(self.disk, idle)
        if not self._unsaved and not self._copied:
            self.disk.heads.settle()

    def _save_copied(self, disk: DiskTier, idle: bool) -> None:
        """Those that are there; ``idle``: all."""
        while self._copied and (idle or is_there(self._copied[0][-1])):
            block, born, proof, content = self._copied.popleft()
            if self._is_wanted(block, born):
                disk.save(proof, bytes(content))

    def _copy_unsaved(self, most: int) -> None:
        batch: list[tuple[Block, int]] = []
        while self._unsaved and len(batch) < most:
            block, born = self._unsaved.popleft()
            if self._is_wanted(block, born):
                batch.append((block, born))
        if batch:
            for (block, born), content in zip(batch, self._read([b.id for b, _ in batch]), strict=False):
                self._copied.append((block, born, block.proof, content))

    def _is_wanted(self, block: Block, born: int) -> bool:
        """One that was evicted meanwhile is somebody else's; one without a head belongs to what was deleted."""
        return self.disk is not None and block.born == born and bool(block.heads) and block.proof not in self.disk

    # -- upwards ------------------------------------------------------------------------------------------------------

    def __contains__(self, proof: BlockProof) -> bool:
        return (self.host is not None and proof in self.host) or (self.disk is not None and proof in self.disk)

    def recorded(self, owner: str) -> tuple[BlockProof, ...]:
        """The blocks of a conversation that nobody has spoken in since the start, as far as the disk knows."""
        return self.disk.heads.of(owner) if self.disk is not None else ()

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

    def begin_step(self) -> None:
        """Another slice may be read."""
        self._read_this_step = 0.0

    def is_over(self, proof: BlockProof) -> bool:
        """Whether this block would have to be read and the step's slice has been used."""
        on_disk = self.disk is not None and proof in self.disk and (self.host is None or proof not in self.host)
        return on_disk and self._read_this_step >= SLICE_SECONDS

    def find(self, proof: BlockProof, reading: Reading) -> tuple[Content, Source] | None:
        """A block's content and where it was. Host memory gives it away: a block that is not brought back after all
        must be put there again."""
        if self.host is not None and proof in self.host and self._is_host_worth_it(reading):
            content = self.host.take(proof)
            assert content is not None
            return content, Source.HOST
        if self.disk is None or reading.given_up or proof not in self.disk or self.times.is_slower(Source.DISK):
            return None
        began = self._clock()
        read = self.disk.find(proof)
        seconds = self._clock() - began
        self._read_this_step += seconds
        self.times.read.add(seconds)
        self.stats.load_seconds[Source.DISK].add(seconds)
        self.stats.late_loads += reading.read(seconds, self.times.compute.seconds)
        if read is None or len(read) != self._pages.block_bytes:
            return None
        return read, Source.DISK

    def is_back(self, proof: BlockProof) -> None:
        """The device has this block again, computed anew: it is not kept twice."""
        if self.host is not None:
            self.host.take(proof)

    def restore(self, ids: Sequence[int], found: Sequence[tuple[BlockProof, Content, Source]]) -> None:
        """Write contents that ``find`` gave into blocks of the device."""
        for group in _groups(list(zip(ids, found, strict=True))):
            seconds = self._write([block_id for block_id, _ in group], [content for _, (_, content, _) in group])
            from_host = sum(source is Source.HOST for _, (_, _, source) in group)
            self.stats.load_seconds[Source.HOST].add(seconds, from_host)

    def _write(self, ids: Sequence[int], contents: Sequence[Content]) -> float:
        """Seconds it took a block."""
        began = self._clock()
        self._pages.write_blocks(ids, contents)
        return self._took(self.times.copy_back, began, len(ids))

    def take_back(self, found: Iterable[tuple[BlockProof, Content, Source]]) -> None:
        """What ``find`` gave is not used after all."""
        for proof, content, source in found:
            if source is Source.HOST and self.host is not None:
                self.host.put(proof, content)

    def _is_host_worth_it(self, reading: Reading) -> bool:
        """Nothing is copied that could be computed in less time; where that may have changed a few blocks will tell."""
        if self.times.copy_back.forgiven and reading.tried >= TRIED_BLOCKS:
            return False
        reading.tried += 1
        return not self.times.is_slower(Source.HOST)

    def swaps(self) -> bool:
        """Whether blocks that are soon asked for again are worth copying to host memory and back."""
        return self.host is not None and not self.times.swap_is_slower()

    # -- the end ------------------------------------------------------------------------------------------------------

    def forget(self, proofs: Sequence[BlockProof]) -> None:
        """These blocks must not be found again, anywhere."""
        gone = set(proofs)
        self._copied = deque(one for one in self._copied if one[2] not in gone)
        for proof in proofs:
            if self.host is not None:
                self.host.take(proof)
            if self.disk is not None:
                self.disk.forget(proof)

    def drop(self, owner: str) -> None:
        """The conversation was deleted."""
        if self.disk is not None:
            self.disk.heads.drop(owner)

    def drop_all(self, tenant: str) -> None:
        """All conversations of a tenant were deleted."""
        if self.disk is not None:
            self.disk.heads.drop_tenant(tenant)

    def records(self) -> set[str]:
        """The names of what the disk has recorded of conversations."""
        return self.disk.heads.names() if self.disk is not None else set()

    def drop_records(self, names: Collection[str]) -> None:
        """The conversations with these records were deleted."""
        if self.disk is not None:
            self.disk.heads.drop_named(names)

    def clear(self) -> None:
        for tier in (self.host, self.disk):
            if tier is not None:
                tier.clear()

    def close(self) -> None:
        """Save what is left, as far as the disk takes it in ``CLOSE_SECONDS``, and let its thread end."""
        until = time.monotonic() + CLOSE_SECONDS
        try:
            while self.has_work and time.monotonic() < until:
                self.work(idle=True)
        finally:  # another engine may come, of this process or another, and wants the folder and the memory
            if self.disk is not None:
                self.disk.close(max(0.0, until - time.monotonic()))
            if self.host is not None:
                self.host.clear()


def _groups(blocks: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(blocks), COPIED_TOGETHER):
        yield blocks[start : start + COPIED_TOGETHER]


def host_capacity(config: EngineConfig, block_bytes: int) -> int:
    """Blocks that ``swap_space`` has room for."""
    return int(config.swap_space * GIB) // (block_bytes + ENTRY_BYTES)


def most_contents(config: EngineConfig, block_bytes: int) -> int:
    """Blocks that may be in host memory at a time: the tier's, those that are coming, and those going to the disk."""
    return host_capacity(config, block_bytes) + COPIED_TOGETHER + max(1, SAVED_IDLE // block_bytes)


def open_tiers(config: EngineConfig, pages: Pages, domain: BlockProof, key: bytes = b"") -> Tiers | None:
    """The lower tiers that ``config`` asks for, if any, for a model with this ``domain``; ``key`` is that of records.

    Raises:
        ConfigError: there is not so much host memory, or the folder for the disk tier cannot be used.
    """
    host = disk = None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.swap_space * GIB > memory:
        raise ConfigError("swap_space", f"is more than this machine's {memory / GIB:.0f} GiB", value=config.swap_space)
    if blocks := host_capacity(config, pages.block_bytes):
        host = HostTier(blocks)
    if config.kv_dir and config.disk_space:
        try:
            form = sealed_by(config.kv_key_file) if config.kv_key_file else None
            disk = DiskTier(Path(config.kv_dir).expanduser(), int(config.disk_space * GIB), domain, form, key)
        except OSError as error:
            raise ConfigError("kv_dir", f"cannot be used: {error}", value=config.kv_dir) from error
    return Tiers(pages, host=host, disk=disk) if host is not None or disk is not None else None
