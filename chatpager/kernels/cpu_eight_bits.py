"""Keys and values of eight bits on a CPU: written beside their scales, and widened again when they are gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from chatpager.kernels.arguments import EIGHT_BITS


def in_eight_bits(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numbers of ``kind``, shaped like ``x``, and the scale of each row, float32: as the GPU's ``store_kv`` has it."""
    largest = EIGHT_BITS[kind]
    wide = x.to(torch.float32)
    top = wide.abs().amax(-1)
    wide = wide * torch.where(top > 0, largest / top, 0.0).unsqueeze(-1)
    return (wide if kind.is_floating_point else torch.floor(wide + 0.5)).to(kind), top / largest


def store(
    new: tuple[Tensor, Tensor], caches: tuple[Tensor, Tensor], slot_mapping: Tensor, scales: tuple[Tensor, Tensor]
) -> None:
    """``store_kv`` on arguments that were checked there.

    Raises:
        IndexError: a slot is past the caches' end.
    """
    kept = slot_mapping >= 0
    slots, size = slot_mapping[kept], caches[0].shape[1]
    block, offset = slots // size, slots % size
    for x, cache, scale in zip(new, caches, scales, strict=True):
        numbers, factors = in_eight_bits(x[kept], cache.dtype)
        cache.view(torch.int8)[block, offset] = numbers.view(torch.int8)  # torch does not index short floats
        scale[block, :, offset] = factors


def gather(cache: Tensor, scales: Tensor, pages: Tensor, into: Tensor) -> Tensor:
    """What ``pages`` of the cache stand for, in the dtype of ``into`` [pages, block_size, kv_heads, head_dim]."""
    numbers = cache.view(torch.int8).index_select(0, pages).view(cache.dtype).to(torch.float32)
    return into.copy_(numbers * scales.index_select(0, pages).transpose(1, 2).unsqueeze(-1))
