"""What a CPU's step spends its time in, the linears: merged where they read the same input, and laid out for the CPU.

transformers' own model classes run as they are; only their ``nn.Linear`` children are exchanged, at load. What is not
exactly ``nn.Linear`` (experts, routers, embeddings) stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn

from chatpager.kernels import cpu_linear

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that are called with the same input one after the other: one product gives all."""
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
KERNEL_ROWS = 16
"""Up to so many rows ``cpu_linear`` is clearly the fastest; from 32 on it is even with widened tiles, then behind."""


def exchange_linears(module: nn.Module, scratch: Scratch | None = None) -> None:
    """Exchange the linears in ``module`` for faster ones, in place; each original is let go of before the next.

    Of a dtype or on a processor that none of them is for, nothing is touched.
    """
    scratch = scratch or Scratch()
    # No linear is in this list: it would keep every weight until the end.
    parents = [child for child in module.modules() if not isinstance(child, nn.Linear)]
    for parent in parents:
        for names in TOGETHER:
            _merge(parent, names, scratch)
    for parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            if is_plain(child):
                setattr(parent, name, faster([child], scratch))


def _merge(parent: nn.Module, names: Sequence[str], scratch: Scratch) -> None:
    linears = [child for name in names if is_plain(child := getattr(parent, name, None))]
    alike = {(linear.in_features, linear.weight.dtype, linear.bias is None) for linear in linears}
    if len(linears) < len(names) or len(alike) > 1:
        return
    shared = Shared(faster(linears, scratch), [linear.out_features for linear in linears])
    for i, name in enumerate(names):
        setattr(parent, name, Part(shared, i))


def is_plain(child: Any) -> TypeGuard[nn.Linear]:
    """Exactly ``nn.Linear``, of numbers that there is something faster for."""
    return type(child) is nn.Linear and (child.weight.dtype is torch.bfloat16 or _packs(child.weight.dtype))


def faster(linears: Sequence[nn.Linear], scratch: Scratch) -> nn.Module:
    """One product for ``linears``, one behind the other; all are plain, and all have a bias or none."""
    weights = [linear.weight.detach() for linear in linears]
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]  # alone not copied: it may be the embedding's
    bias = torch.cat(biases) if biases else None
    return Packed(weight, bias) if _packs(weight.dtype) else Widened(weight, bias, scratch)


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and multiplies numbers of this type; bfloat16 needs AVX-512 or its like."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        Packed(torch.zeros(16, 16, dtype=dtype), None)(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, AttributeError):  # torch's own operator, which promises nothing to others
        return False
    return True


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
        self._flat = torch.empty(0)

    def tile(self, rows: int, columns: int) -> torch.Tensor:
        if self._flat.numel() < rows * columns:
            self._flat = torch.empty(rows * columns)
        return self._flat[: rows * columns].view(rows, columns)


class Widened(nn.Module):
    """A bfloat16 linear for processors that multiply float32 only, where torch's own is slow. A few rows are
    ``cpu_linear``'s; for more the weight is widened tile by tile, which takes no memory.

    Args:
        weight: [out, in], bfloat16; kept, not copied.
        bias: [out].
        scratch: what the tiles are widened in.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, scratch: Scratch) -> None:
        super().__init__()
        self.weight, self._bias, self._scratch = weight, bias, scratch
        self.wide_bias = None if bias is None else bias.float()
        self._rows = max(TILE_ROWS, TILE // weight.shape[1] // TILE_ROWS * TILE_ROWS)
        cpu_linear.kernels()  # compiled now, not in the first answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if rows <= KERNEL_ROWS:
            out = x.new_empty(*x.shape[:-1], len(self.weight))
            flat = x.reshape(rows, x.shape[-1]), out.view(rows, len(self.weight))
            if cpu_linear.linear(flat[0], self.weight, self.wide_bias, flat[1]):
                return out
            if rows <= NARROW_ROWS:
                return nn.functional.linear(x, self.weight, self._bias)
        return self._by_tiles(x, rows)

    def _by_tiles(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        out = torch.empty(rows, len(self.weight), dtype=x.dtype)
        wide = x.reshape(rows, -1).float()
        for start in range(0, len(self.weight), self._rows):
            part = self.weight[start : start + self._rows]
            tile = self._scratch.tile(*part.shape).copy_(part)
            bias = None if self.wide_bias is None else self.wide_bias[start : start + self._rows]
            out[:, start : start + self._rows] = nn.functional.linear(wide, tile, bias)
        return out.view(*x.shape[:-1], -1)


class Shared:
    """One product for several linears that read the same input. Whoever comes first with an input has it computed; it
    is kept until each part was taken once, and with it the input, so that it cannot be mistaken for another one."""

    def __init__(self, linear: nn.Module, sizes: list[int]) -> None:
        self._linear, self._sizes = linear, sizes
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if x is not self._input or index not in self._parts:
            self._input, self._parts = x, dict(enumerate(self._linear(x).split(self._sizes, -1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._input = None
        return part


class Part(nn.Module):
    """One of the linears of ``Shared``: columns of its product, not contiguous."""

    def __init__(self, shared: Shared, index: int) -> None:
        super().__init__()
        self._shared, self._index = shared, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._shared.part(self._index, x)
