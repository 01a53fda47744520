"""A copy of the block map outside the engine's thread, from which every page is told what changed since it last asked.

The engine is asked for some changes at a time, so that no step waits for a large pool. A page is told in columns of
little-endian numbers: a header of five 32-bit ones (stamp, epoch, blocks of the pool, blocks told, 1 where that is all
of them), the blocks' numbers unless it is all, their parents (0: none) and, a byte each, their codes.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import numpy.typing as npt

from chatpager.sessions.inspecting import Inspector
from chatpager.sessions.to_the_end import to_the_end

SLICE = 1024
"""Blocks of one question: about a millisecond of the engine's thread."""
LOOK_SECONDS = 0.5
"""After which a look tells what it has; the rest comes with the next."""
WORD = np.dtype("<u4")


class BlockMirror:
    """Block 0 belongs to nobody and is not told."""

    def __init__(self) -> None:
        self._epoch = ""
        self._stamp = 0
        self._looking = asyncio.Lock()
        self._put_up(0)

    def _put_up(self, blocks: int) -> None:
        self._codes: npt.NDArray[np.uint8] = np.zeros(blocks + 1, np.uint8)
        self._parents: npt.NDArray[np.uint32] = np.zeros(blocks + 1, WORD)
        self._stamps: npt.NDArray[np.uint32] = np.zeros(blocks + 1, WORD)

    async def told(self, inspector: Inspector, stamp: int, epoch: int) -> bytes:
        """What ``since`` says, brought up to date as far as ``LOOK_SECONDS`` go. Raises EngineStopped."""
        return await to_the_end(self._look_and_tell(inspector, stamp, epoch))

    async def _look_and_tell(self, inspector: Inspector, stamp: int, epoch: int) -> bytes:
        """Who asks may leave meanwhile; what the engine told is told once, so it must be taken."""
        async with self._looking:
            await self._look(inspector)
            return await asyncio.to_thread(self.since, stamp, epoch)

    async def _look(self, inspector: Inspector) -> None:
        until = time.monotonic() + LOOK_SECONDS
        while True:
            changes = await inspector.changes(SLICE)
            if changes.epoch != self._epoch:
                self._epoch = changes.epoch
                self._put_up(changes.total)
            self._take(changes.blocks)
            if not changes.more or time.monotonic() > until:
                return

    def _take(self, blocks: list[tuple[int, int, int]]) -> None:
        """Only what is really another thing now is told."""
        if not blocks:
            return
        told = np.array(blocks, np.int64)
        ids, codes, parents = told[:, 0], told[:, 1], told[:, 2]
        new = (self._codes[ids] != codes) | (self._parents[ids] != parents)
        if not new.any():
            return
        self._stamp += 1
        self._codes[ids] = codes
        self._parents[ids] = parents
        self._stamps[ids[new]] = self._stamp

    def since(self, stamp: int, epoch: int) -> bytes:
        """What changed after ``stamp`` of ``epoch``; all, if that is another one or would be less to tell."""
        total, mine = len(self._codes) - 1, int(self._epoch[:8] or "0", 16)
        ids = np.flatnonzero(self._stamps > stamp)
        whole = epoch != mine or not 0 < stamp <= self._stamp or len(ids) * 9 > total * 5
        told = np.arange(1, total + 1) if whole else ids
        header = np.array([self._stamp, mine, total, len(told), whole], WORD)
        columns = [] if whole else [told.astype(WORD)]
        columns.append(self._parents[told])
        return b"".join(column.tobytes() for column in (header, *columns)) + self._codes[told].tobytes()
