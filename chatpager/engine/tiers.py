"""Where KV blocks live that are not on the device: host memory, then disk.

A block is demoted to host memory when the device evicts it, if it was worth something to somebody, and written to disk
when the conversation it belongs to ends a turn. It is brought back when a prompt asks for it and nothing before it is
missing: a lower tier can cost a hit, and never gives a wrong one. What would take longer to read than to compute again
is left where it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from chatpager.engine.block import Block
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.block_times import BlockTimes
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.histogram import Histogram
from chatpager.engine.host_tier import Content, HostTier
from chatpager.engine.pages import COPIED_TOGETHER, Pages
from chatpager.engine.reading import SLICE_SECONDS, Reading, Source
from chatpager.engine.saving import Saving
from chatpager.engine.timed_copies import TimedCopies

T = TypeVar("T")

CLOSE_SECONDS = 10.0
MOST_DEMOTED = 256 << 20
"""Bytes that one allocation may copy to host memory; on a GPU the next step waits for what goes before its end."""
TRIED_BLOCKS = 4
"""Copied at the start to learn what that takes, and of a prompt while that is not known any more."""
LOAD_SECONDS = -17, 3
"""Eight microseconds to eight seconds, as powers of two."""


class Demoted(NamedTuple):
    """A block that the device gives up; ``dead``: no conversation contains it any more."""

    proof: BlockProof
    id: int
    dead: bool


@dataclass
class TierStats:
    demoted_blocks: int = 0
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
        self.copies = TimedCopies(pages, self.times, clock, host)
        self._saving = Saving(disk, self.copies) if disk is not None else None
        self._clock = clock
        self._read_this_step = 0.0
        """Seconds."""

    def measure(self, ids: Sequence[int]) -> None:
        """Learn what copies to host memory take, where there is one, by a few blocks."""
        if self.host is not None:
            self.copies.measure(ids)

    # -- downwards ----------------------------------------------------------------------------------------------------

    def demote(self, blocks: Sequence[Demoted]) -> None:
        """Keep evicted blocks in host memory. Called before anything is written over them."""
        if self.host is None:
            return
        most = min(self.host.capacity, max(1, MOST_DEMOTED // self.copies.block_bytes))
        for group in _groups(blocks[-most:]):  # of a chain, what was evicted last is needed first
            for block, content in zip(group, self.copies.read([block.id for block in group]), strict=False):
                self.host.put(block.proof, content, dead=block.dead)
                self.stats.demoted_blocks += 1

    def bury(self, proofs: Iterable[BlockProof]) -> None:
        """No conversation contains these any more: host memory gives them up before anything else. (The disk does when
        it writes what the conversation consists of now.)"""
        if self.host is not None:
            for proof in proofs:
                self.host.bury(proof)

    def save(self, owner: str, chain: Sequence[Block]) -> None:
        """Write to disk what a conversation consists of now; its blocks follow in ``work``."""
        if self._saving is not None and chain:
            self._saving.save(owner, chain)

    def fork(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """A new conversation consists of these blocks of another one, which are on the disk or on their way there."""
        if self.disk is not None and proofs:
            self.disk.heads.keep(owner, proofs)

    def rewind(self, owner: str, proofs: Sequence[BlockProof]) -> None:
        """A conversation consists of no more than these of the blocks that it had; nothing is recorded of one that has
        none, which may be one of which nothing is known."""
        if self.disk is None:
            return
        if proofs:
            self.disk.heads.keep(owner, proofs)
        else:
            self.disk.heads.drop(owner)

    @property
    def has_work(self) -> bool:
        return self._saving is not None and self._saving.has_work

    def give_way(self, wanted: bool) -> None:
        """Whether steps are computed from now on, which the disk's thread must not hold up."""
        if self.disk is not None:
            self.disk.give_way(wanted)

    def work(self, *, idle: bool) -> None:
        """Save some blocks: few, so that the next step need not wait for long. ``idle``: there is no next step yet, and
        the disk may be waited for a little."""
        if self._saving is not None:
            self._saving.work(idle=idle)

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
        if read is None or len(read) != self.copies.block_bytes:
            return None
        return read, Source.DISK

    def is_back(self, proof: BlockProof) -> None:
        """The device has this block again, computed anew: it is not kept twice."""
        if self.host is not None:
            self.host.take(proof)

    def restore(self, ids: Sequence[int], found: Sequence[tuple[BlockProof, Content, Source]]) -> None:
        """Write contents that ``find`` gave into blocks of the device."""
        for group in _groups(list(zip(ids, found, strict=True))):
            seconds = self.copies.write([block_id for block_id, _ in group], [content for _, (_, content, _) in group])
            from_host = sum(source is Source.HOST for _, (_, _, source) in group)
            self.stats.load_seconds[Source.HOST].add(seconds, from_host)

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
        if self._saving is not None:
            self._saving.forget(set(proofs))
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
