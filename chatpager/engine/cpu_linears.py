"""Linears laid out for the CPU, which is where its step spends the time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn

from chatpager.kernels import cpu_linear
from chatpager.kernels.cpu_linear import Weights

PACKED_FOR = 16
"""Rows that packed weights are laid out for; any number is computed with them."""
TILE = 1 << 20
"""Elements of a weight that are widened at a time: 4 MiB of float32, which stay in the cache until they are used. With
1 MiB a product of 32 or 64 rows takes 1.3 and 1.15 times as long, of 256 and more as long (two threads, 16 MiB of third
level cache a core)."""
TILE_ROWS = 64
"""Rows of the weight in a tile are a multiple of this: with 341 a product takes 1.1 times as long as with 384."""
NARROW_ROWS = 4
"""Up to so many rows torch's own bfloat16 product is the faster one where ``cpu_linear`` cannot be had. Widened, a step
of the 15m and the 100m shape takes 1.07 and 1.2 times as long with 4 rows, 0.65 and 0.55 times with 16 (one thread of
an EPYC with AVX2)."""
INT8_MOST = 127


class Maker:
    """Makes faster linears of plain ones.

    Args:
        int8: keep weights as whole numbers of eight bits, with a factor for each output: half of what they take in
            bfloat16. Answers are no longer the model's to the last bit.
    """

    def __init__(self, *, int8: bool = False) -> None:
        self._int8 = int8
        self._scratch = Scratch()

    def takes(self, child: Any) -> TypeGuard[nn.Linear]:
        """Whether it is exactly ``nn.Linear``, of numbers that there is something faster for."""
        if type(child) is not nn.Linear:
            return False
        dtype = child.weight.dtype
        if dtype is torch.float32:
            return self._int8 or _has_kernels(dtype) or packs(dtype)
        return dtype is torch.bfloat16

    def make(self, linears: Sequence[nn.Linear]) -> nn.Module:
        """One product for ``linears``, one behind the other; all are taken, and all have a bias or none."""
        weights = [linear.weight.detach() for linear in linears]
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]  # alone not copied: it may be the embedding's
        bias = torch.cat(biases) if biases else None
        dtype = weight.dtype
        if not self._int8 and packs(dtype) and not _are_read_as_they_lie(dtype):
            return Packed(weight, bias)
        scale = None
        if self._int8:
            weight, scale = quantised(weight)
        return Streamed(Weights(weight, scale, None if bias is None else bias.float()), dtype, self._scratch)


def _has_kernels(dtype: torch.dtype) -> bool:
    return cpu_linear.kernels(dtype, dtype) is not None


def _are_read_as_they_lie(dtype: torch.dtype) -> bool:
    """Whether ``Streamed`` is the faster one where oneDNN multiplies numbers of this type."""
    return _has_kernels(dtype) and (dtype is torch.float32 or cpu_linear.has_dots())


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and multiplies numbers of this type; bfloat16 needs AVX-512 or its like."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        Packed(torch.zeros(16, 16, dtype=dtype), None)(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, AttributeError):  # torch's own operator, which promises nothing to others
        return False
    return True


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[out, in] -> int8 of the same shape, and the factor of each row, [out] float32."""
    whole = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight), dtype=torch.float32)
    rows = max(1, TILE // weight.shape[1])
    for start in range(0, len(weight), rows):  # so that the wide copy is small
        part = weight[start : start + rows].float()
        factor = part.abs().amax(1) / INT8_MOST
        scale[start : start + rows] = factor
        whole[start : start + rows] = (part / torch.where(factor > 0, factor, 1.0)[:, None]).round()
    return whole, scale


class Packed(nn.Module):
    """A linear whose weight lies in the blocks oneDNN multiplies with; otherwise it brings them into order each time.

    Args:
        weight: [out, in]; not kept.
        bias: [out].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._out = len(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)
        self._bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.numel():  # oneDNN has no empty products
            return x.new_empty(*x.shape[:-1], self._out)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class Scratch:
    """A tile of float32, the same for all linears: they run one after the other."""

    def __init__(self) -> None:
        self._flat = torch.empty(0, dtype=torch.float32)

    def tile(self, rows: int, columns: int) -> torch.Tensor:
        if self._flat.numel() < rows * columns:
            self._flat = torch.empty(rows * columns, dtype=torch.float32)
        return self._flat[: rows * columns].view(rows, columns)


class Streamed(nn.Module):
    """A linear whose weight lies as it is and is read once for all rows of a small step, by ``cpu_linear``. For more
    rows it is torch's product, for which weights that torch is slow with are widened tile by tile, which takes no
    memory.

    Args:
        weights: kept, not copied; of float32, bfloat16, or int8.
        dtype: of inputs and outputs.
        scratch: what the tiles are widened in.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype, scratch: Scratch) -> None:
        super().__init__()
        self.weights, self._scratch = weights, scratch
        self.out_features, self.in_features = weights.weight.shape
        self._narrow_bias = None if weights.bias is None else weights.bias.to(dtype)
        self._rows = max(TILE_ROWS, TILE // self.in_features // TILE_ROWS * TILE_ROWS)
        stored = weights.weight.dtype
        self.kernels = cpu_linear.kernels(dtype, stored)  # compiled now, not in the first answer
        self.most_rows = cpu_linear.most_rows(dtype, stored)
        self._narrow_rows = NARROW_ROWS  # up to so many torch multiplies weights that lie as they are
        if stored is torch.float32 or (stored is torch.bfloat16 and packs(stored)):
            self._narrow_rows = sys.maxsize
        elif stored is torch.int8:
            self._narrow_rows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if rows <= self.most_rows:
            out = x.new_empty(*x.shape[:-1], self.out_features)
            flat = x.reshape(rows, self.in_features), out.view(rows, self.out_features)
            if cpu_linear.linear(flat[0], self.weights, flat[1]):
                return out
        if rows <= self._narrow_rows:
            return nn.functional.linear(x, self.weights.weight, self._narrow_bias)
        return self._by_tiles(x, rows)

    def _by_tiles(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        weight, scale, bias = self.weights
        out = torch.empty(rows, self.out_features, dtype=x.dtype)
        wide = x.reshape(rows, -1).float()
        for start in range(0, self.out_features, self._rows):
            here = slice(start, start + self._rows)
            part = weight[here]
            tile = self._scratch.tile(*part.shape).copy_(part)
            product = nn.functional.linear(wide, tile, bias[here] if bias is not None and scale is None else None)
            if scale is not None:
                product *= scale[here]
                if bias is not None:
                    product += bias[here]
            out[:, here] = product
        return out.view(*x.shape[:-1], -1)
