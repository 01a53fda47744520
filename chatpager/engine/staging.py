"""Numbers that the host hands to the device together: they are written into one pinned buffer and sent by one copy.

There are two such buffers, which take turns: while the device may still read the one, since the step before that has
not begun, the next step is written into the other. On the device there is one place, since copies and steps are in one
stream: what comes next arrives when the step before is over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

ALIGNED = 64
"""Bytes: kernels are compiled for numbers that begin at a multiple of 16."""
TORCH = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32, np.dtype(np.float32): torch.float32}


class Place(NamedTuple):
    """Of ``size`` numbers, ``offset`` bytes behind the beginning of each buffer."""

    offset: int
    size: int
    dtype: np.dtype[Any]


def room(count: int, dtype: type) -> int:
    """Bytes that so many numbers take, and what keeps the next ones aligned."""
    return -(-count * np.dtype(dtype).itemsize // ALIGNED) * ALIGNED


class Staging:
    """What a CPU computes with lies where it is written: there is one buffer then, and nothing to send."""

    def __init__(self, nbytes: int, device: torch.device, *, is_apart: bool | None = None) -> None:
        """``is_apart``: whether the device has memory of its own; None: as it is."""
        self._is_apart = device.type != "cpu" if is_apart is None else is_apart
        pin = device.type == "cuda"
        count = 2 if self._is_apart else 1
        self._hosts = [torch.zeros(nbytes, dtype=torch.uint8, pin_memory=pin) for _ in range(count)]
        self._arrays = [host.numpy() for host in self._hosts]
        self._device = torch.zeros(nbytes, dtype=torch.uint8, device=device) if self._is_apart else self._hosts[0]
        self._sent = [self._event() for _ in range(count)] if self._is_apart else []
        """Behind the copy that was made from each buffer last."""
        self._turn = 0
        self._fixed = 0
        """Bytes of what has the same place in every step."""
        self._used = 0

    def fix(self, count: int, dtype: type) -> Place:
        """A place that is the same in every step; to be asked for before any step."""
        place = self.take(count, dtype)
        self._fixed = self._used
        return place

    def begin(self) -> None:
        """Another step is written. Waits until nothing reads the buffer that it gets."""
        if self._is_apart:
            self._turn = 1 - self._turn
            self._sent[self._turn].synchronize()
        self._used = self._fixed

    def take(self, count: int, dtype: type) -> Place:
        """A place in this step's buffer."""
        place = Place(self._used, count, np.dtype(dtype))
        self._used += room(count, dtype)
        assert self._used <= len(self._device), (self._used, len(self._device))
        return place

    def array(self, place: Place) -> np.ndarray:
        """What is there, to be written by the host."""
        stop = place.offset + place.size * place.dtype.itemsize
        return self._arrays[self._turn][place.offset : stop].view(place.dtype)

    def tensor(self, place: Place) -> torch.Tensor:
        """Where it is on the device, once it was sent."""
        stop = place.offset + place.size * place.dtype.itemsize
        return self._device[place.offset : stop].view(TORCH[place.dtype])

    def send(self, *, fixed: bool) -> None:
        """What the step has taken, ``fixed``: and what has the same place in every step."""
        if not self._is_apart:
            return
        span = slice(0 if fixed else self._fixed, self._used)
        self._copy(self._device[span], self._hosts[self._turn][span])
        self._sent[self._turn].record()

    def spread(self, place: Place, target: torch.Tensor) -> None:
        """Copy what was sent to ``target`` on the device, which has as many numbers."""
        self._copy(target, self.tensor(place).view(target.shape))

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def _event(self) -> Any:
        return torch.cuda.Event()  # type: ignore[no-untyped-call]
