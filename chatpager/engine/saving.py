"""Writing to disk what a conversation consists of, a few blocks at a time: no step waits for long."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from chatpager.engine.block import Block
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.host_tier import Content, is_there
from chatpager.engine.timed_copies import TimedCopies

SAVED_IDLE, SAVED_BUSY = 2 << 20, 1 << 18
"""Bytes that are saved at a time, where nothing waits for a step and where something does."""
DISK_PATIENCE = 0.005


class Saving:
    def __init__(self, disk: DiskTier, copies: TimedCopies) -> None:
        self._disk = disk
        self._copies = copies
        self._unsaved: deque[tuple[Block, int]] = deque()
        """Blocks on their way to the disk, with their ``born``."""
        self._copied: deque[tuple[Block, int, BlockProof, Content]] = deque()
        """Those of them whose contents are being copied from the device."""

    def save(self, owner: str, chain: Sequence[Block]) -> None:
        """Record what a conversation consists of now; its blocks follow in ``work``."""
        self._disk.look_after()
        self._disk.heads.keep(owner, [block.proof for block in chain])
        self._unsaved.extend((block, block.born) for block in chain if block.proof not in self._disk)
        if not self.has_work:
            self._disk.heads.settle()

    @property
    def has_work(self) -> bool:
        return bool(self._unsaved or self._copied)

    def work(self, *, idle: bool) -> None:
        """Save some blocks: few, so that the next step need not wait for long. ``idle``: there is no next step yet, and
        the disk may be waited for a little."""
        if not self.has_work or not self._disk.has_room(DISK_PATIENCE if idle else 0.0):
            return
        self._save_copied(idle)
        if not self._copied:
            self._copy_unsaved(max(1, (SAVED_IDLE if idle else SAVED_BUSY) // self._copies.block_bytes))
            self._save_copied(idle)
        if not self._unsaved and not self._copied:
            self._disk.heads.settle()

    def forget(self, proofs: Collection[BlockProof]) -> None:
        """What is copied of these must not be saved."""
        self._copied = deque(one for one in self._copied if one[2] not in proofs)

    def _save_copied(self, idle: bool) -> None:
        """Those that are there; ``idle``: all."""
        while self._copied and (idle or is_there(self._copied[0][-1])):
            block, born, proof, content = self._copied.popleft()
            if self._is_wanted(block, born):
                self._disk.save(proof, bytes(content))

    def _copy_unsaved(self, most: int) -> None:
        batch: list[tuple[Block, int]] = []
        while self._unsaved and len(batch) < most:
            block, born = self._unsaved.popleft()
            if self._is_wanted(block, born):
                batch.append((block, born))
        if batch:
            for (block, born), content in zip(batch, self._copies.read([b.id for b, _ in batch]), strict=False):
                self._copied.append((block, born, block.proof, content))

    def _is_wanted(self, block: Block, born: int) -> bool:
        """One that was evicted meanwhile is somebody else's; one without a head belongs to what was deleted."""
        return block.born == born and bool(block.heads) and block.proof not in self._disk
