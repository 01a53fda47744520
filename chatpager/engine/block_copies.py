"""Copies of KV blocks between a GPU and pinned host memory, beside the steps.

Blocks that are given up are gathered into one piece on the device, among the steps, so that whatever is written over
them afterwards comes too late to be copied; from there the piece goes to the host in a stream of its own. Blocks that
come back take the same way in the other direction, in another stream, which need not wait for the step that runs; only
the device waits for them. Two pieces each way take turns:
of many blocks at once, the steps wait for all but the last two pieces. The host waits where it wants to see the bytes
of a block, which it does to write them to disk, and nowhere else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, cycle, pairwise
from typing import Any, NamedTuple

import torch

from chatpager.engine.host_tier import Content
from chatpager.engine.kv_cache import WORD, KVCache
from chatpager.engine.pages import COPIED_TOGETHER
from chatpager.engine.sampler import sent

CHUNK_BYTES = 16 << 20
"""Of pinned memory that is taken from the system at a time, which takes milliseconds; of large blocks it is more."""
PIECE_BYTES = 64 << 20
"""Of the device's memory that blocks on their way take at a time; there are two such pieces each way, beside what
``gpu_memory_utilization`` counts."""


class PinnedBlocks:
    """Host memory for ``most`` blocks of so many bytes: it grows as they are wanted, and is used again and never handed
    back."""

    def __init__(self, block_bytes: int, most: int, *, pin: bool) -> None:
        self.block_bytes, self._most, self._pin = block_bytes, most, pin
        # torch makes every pinned piece a power of two: of one that is, and holds eight, less than an eighth is lost
        self._chunk_bytes = max(CHUNK_BYTES, 1 << (8 * block_bytes - 1).bit_length())
        self._rows = self._chunk_bytes // block_bytes
        self._chunks: list[torch.Tensor] = []
        self._free: list[int] = []

    def take(self, count: int) -> list[HostBlock]:
        """In the order in which they lie, as far as they lie together.

        Raises:
            MemoryError: there would be more than ``most``. None is taken.
        """
        in_use = len(self._chunks) * self._rows - len(self._free)
        if in_use + count > self._most:
            raise MemoryError(f"{in_use} of {self._most} blocks in pinned memory are in use, and {count} are wanted")
        while len(self._free) < count:
            words = self.block_bytes // WORD.itemsize
            chunk = torch.empty(self._chunk_bytes // WORD.itemsize, dtype=WORD, pin_memory=self._pin)
            for slot in range(len(self._chunks) * self._rows, (len(self._chunks) + 1) * self._rows):
                heapq.heappush(self._free, slot)
            self._chunks.append(chunk[: self._rows * words].view(self._rows, words))
        return [HostBlock(self, heapq.heappop(self._free)) for _ in range(count)]

    def give_back(self, slot: int) -> None:
        heapq.heappush(self._free, slot)

    def rows(self, first: int, count: int = 1) -> torch.Tensor:
        """The memory of ``count`` slots from ``first`` on, [count, words]."""
        chunk, row = divmod(first, self._rows)
        return self._chunks[chunk][row : row + count]

    def lie_together(self, block: HostBlock, other: HostBlock) -> bool:
        """Whether ``other`` is behind ``block`` in the same piece of this memory."""
        is_next = other.slot == block.slot + 1 and other.slot % self._rows != 0
        return is_next and block.memory is other.memory is self


class HostBlock:
    """A block's content in pinned memory, there once the copy behind it is done. The memory is the block's until
    nobody has this object any more: what is copied to it later waits for a step, and steps wait for what comes in."""

    __slots__ = ("memory", "ready", "slot")

    def __init__(self, memory: PinnedBlocks, slot: int) -> None:
        self.memory, self.slot = memory, slot
        self.ready: Any = None
        """An event."""

    def __len__(self) -> int:
        return self.memory.block_bytes

    def __bytes__(self) -> bytes:
        """Waits until it is there."""
        self.ready.synchronize()
        return self.memory.rows(self.slot).numpy().tobytes()

    @property
    def is_there(self) -> bool:
        return bool(self.ready.query())

    def __del__(self) -> None:
        self.memory.give_back(self.slot)


class Copied(NamedTuple):
    """Events before a copy, behind all that it waited for, and after it."""

    begin: Any
    end: Any


class Side:
    """A stream of copies each way, beside the one in which steps are launched: what comes in waits for no step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.leaving: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.coming: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def steps(self) -> Any:
        """The stream in which steps are launched."""
        return torch.cuda.current_stream(self._device)

    def launch(self, stream: Any, work: Callable[[], None]) -> Any:
        """Returns an event behind it."""
        with torch.cuda.stream(stream):
            work()
        return stream.record_event()

    def mark(self, stream: Any) -> Any:
        """An event that tells when it was."""
        return stream.record_event(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]

    def copy(self, stream: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Copied:
        """Each second to its first."""

        def work() -> None:
            for target, source in pairs:
                target.copy_(source, non_blocking=True)

        begin = self.mark(stream)
        self.launch(stream, work)
        return Copied(begin, self.mark(stream))


class Piece:
    """Memory of the device, [rows, words], in which blocks lie together on their way. Who writes it waits for ``read``,
    an event behind its last use."""

    def __init__(self, memory: torch.Tensor, read: Any) -> None:
        self.memory, self.read = memory, read


class BlockCopies:
    """At most so many blocks are in host memory at a time."""

    def __init__(self, cache: KVCache, most: int, side: Side | None = None) -> None:
        self.cache = cache
        self._parts = cache.words()
        self._device = self._parts[0].device
        self._bounds = list(pairwise(accumulate((part.shape[1] for part in self._parts), initial=0)))
        self._words = self._bounds[-1][1]
        self._side = side or Side(self._device)
        block_bytes = self._words * WORD.itemsize
        self._memory = PinnedBlocks(block_bytes, most, pin=self._device.type == "cuda")
        self._rows = max(1, min(COPIED_TOGETHER, PIECE_BYTES // block_bytes))
        self._leaving, self._coming = self._pieces(), self._pieces()
        self._last: list[Copied] = []
        """What ``read`` or ``write`` asked for last."""

    def _pieces(self) -> Iterator[Piece]:
        """Two that take turns: one is filled while the other one is read."""
        memory = torch.empty(2, self._rows, self._words, dtype=WORD, device=self._device)
        whoever_had_it = self._side.steps.record_event()
        return cycle([Piece(half, whoever_had_it) for half in memory])

    def read(self, ids: Sequence[int]) -> list[HostBlock]:
        """The blocks' contents as they are now, in the order of ``KVCache.read``; nothing is waited for.

        Raises:
            MemoryError: too many are in host memory already.
        """
        blocks = self._memory.take(len(ids))
        self._last = [
            self._read_piece(ids[start : start + self._rows], blocks[start : start + self._rows])
            for start in range(0, len(ids), self._rows)
        ]
        return blocks

    def _read_piece(self, ids: Sequence[int], blocks: Sequence[HostBlock]) -> Copied:
        piece, side = next(self._leaving), self._side
        where = sent(list(ids), torch.int64, self._device)

        def gather() -> None:
            for part, (start, stop) in zip(self._parts, self._bounds, strict=True):
                torch.index_select(part, 0, where, out=piece.memory[: len(ids), start:stop])

        side.steps.wait_event(piece.read)
        side.leaving.wait_event(side.launch(side.steps, gather))
        pairs = [(memory, piece.memory[first : first + len(memory)]) for first, memory in self._runs(blocks)]
        copied = side.copy(side.leaving, pairs)
        piece.read = copied.end
        for block in blocks:
            block.ready = copied.end
        return copied

    def write(self, ids: Sequence[int], contents: Sequence[Content]) -> None:
        """Write contents that ``read`` gave, or any bytes of the same form. Nothing waits but steps that are launched
        afterwards."""
        self._last = [
            self._write_piece(ids[start : start + self._rows], contents[start : start + self._rows])
            for start in range(0, len(ids), self._rows)
        ]

    def _write_piece(self, ids: Sequence[int], contents: Sequence[Content]) -> Copied:
        piece, side = next(self._coming), self._side
        where = sent(list(ids), torch.int64, self._device)
        pairs = [(piece.memory[first : first + len(memory)], memory) for first, memory in self._runs(contents)]

        def scatter() -> None:
            for part, (start, stop) in zip(self._parts, self._bounds, strict=True):
                part.index_copy_(0, where, piece.memory[: len(ids), start:stop])

        side.coming.wait_event(piece.read)
        for ready in {content.ready for content in contents if isinstance(content, HostBlock) and not content.is_there}:
            side.coming.wait_event(ready)
        copied = side.copy(side.coming, pairs)
        side.steps.wait_event(copied.end)
        piece.read = side.launch(side.steps, scatter)
        return copied

    def wait(self) -> float:
        """Until what was asked for last is there. Returns the seconds that its copies took, without what they
        had to wait for."""
        for copied in self._last:
            copied.end.synchronize()
        return sum(copied.begin.elapsed_time(copied.end) for copied in self._last) / 1000

    def _runs(self, contents: Sequence[Content]) -> Iterator[tuple[int, torch.Tensor]]:
        """Contents that lie one behind the other in pinned memory as one: the place of the first, and the memory.
        Bytes are copied there."""
        first = 0
        for i, content in enumerate(contents):
            follower = contents[i + 1] if i + 1 < len(contents) else None
            if not isinstance(content, HostBlock):
                if follower is not None and not isinstance(follower, HostBlock):
                    continue
                raw = bytearray().join(map(bytes, contents[first : i + 1]))
                memory = torch.frombuffer(raw, dtype=WORD).view(i + 1 - first, -1)
                yield first, memory.pin_memory() if self._device.type == "cuda" else memory
            elif isinstance(follower, HostBlock) and content.memory.lie_together(content, follower):
                continue
            else:
                yield first, content.memory.rows(content.slot - (i - first), i + 1 - first)
            first = i + 1
