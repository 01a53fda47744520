"""Scratch memory that one caller owns and hands to call after call."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Named buffers that grow to the next power of two and are never handed back.

    It holds at most twice what the largest call needed. One workspace serves one thread and one CUDA stream;
    what ``take`` returned is valid until the same name is taken again. Growing drops the old buffer, so before a
    CUDA graph is captured the largest call must have run once with the same workspace.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised contiguous tensor of ``shape``."""
        count = math.prod(shape)
        buffer = self._buffers.get((name, dtype, device))
        if buffer is None or buffer.numel() < count:
            size = 1 << max(count - 1, 0).bit_length()
            buffer = torch.empty(size, dtype=dtype, device=device)
            self._buffers[name, dtype, device] = buffer
        return buffer[:count].view(shape)
