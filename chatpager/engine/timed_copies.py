"""Copying blocks from the device and back to it, and learning what that takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from chatpager.engine.block_times import Average, BlockTimes
from chatpager.engine.host_tier import Content, HostTier
from chatpager.engine.pages import Launched, Pages

log = logging.getLogger(__name__)


class TimedCopies:
    """``times`` is told what a block takes. ``host`` gives up blocks where copies need their room."""

    def __init__(self, pages: Pages, times: BlockTimes, clock: Callable[[], float], host: HostTier | None) -> None:
        self.failed = 0
        self._pages = pages
        self._launched: Launched | None = pages if isinstance(pages, Launched) and pages.copies_later else None
        self._times = times
        self._clock = clock
        self._host = host

    @property
    def block_bytes(self) -> int:
        return self._pages.block_bytes

    def measure(self, ids: Sequence[int]) -> None:
        """Copy the contents of a few blocks out and back: what that takes is not to be learned at a request's cost."""
        for _ in range(2):  # the first time is slower than any later one
            self._times.copy_out, self._times.copy_back = Average(), Average()
            if contents := self.read(ids):
                self.write(ids, contents)

    def read(self, ids: Sequence[int]) -> Sequence[Content]:
        """Their contents; none where the copy failed, which costs warmth and not the step."""
        began = self._clock()
        try:
            contents = self._read_within_bounds(ids)
            self._took(self._times.copy_out, began, len(ids))
            return contents
        except Exception as error:
            self.failed += 1
            log.error("%d KV blocks were not copied", len(ids), exc_info=error)
            return []

    def write(self, ids: Sequence[int], contents: Sequence[Content]) -> float:
        """Seconds it took a block."""
        began = self._clock()
        self._pages.write_blocks(ids, contents)
        return self._took(self._times.copy_back, began, len(ids))

    def _read_within_bounds(self, ids: Sequence[int]) -> Sequence[Content]:
        """Where contents that are being brought back take the room, others that wait in host memory go for these."""
        try:
            return self._pages.read_blocks(ids)
        except MemoryError:
            if self._host is None:
                raise
            self._host.give_up(len(ids))
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
