"""A linear of few rows on the CPU, by numba's ``cpu_linear_jit`` where numba can be had."""

from __future__ import annotations

from array import array
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from chatpager.kernels.cpu_code import Kernel, kernel_of, parts_for

# The places of a call's arguments in its table of int64: addresses, strides in elements. ``cpu_linear_jit`` reads it.
(
    INPUT, INPUT_ROW, WIDE, WIDE_ROW, WEIGHT, WEIGHT_ROW, SCALE, BIAS, OUT, OUT_ROW, ROWS, IN, COLUMNS, PARTS, SUMS_AT,
    NEXT, WIDENED,
) = range(17)  # fmt: skip

SUMS = 16
"""Floats a part needs for its sums: a cache line, so that no two parts share one."""
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}
SERVED = {
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.int8),
    (torch.bfloat16, torch.int8),
}
"""Inputs, which are what the outputs are too, and weights."""
FEW_ROWS = 16
"""Up to so many rows it is clearly the fastest there is; from 32 on it is even with tiles that are widened for torch,
then behind."""
FEW_ROWS_BY_DOTS = 64
"""Where the processor multiplies bfloat16 itself: 16, 64 and 128 rows take 0.79 to 0.94, 0.96 to 1.09 and 1.00 to 1.14
times what oneDNN's packed weights take (one thread of an EPYC with AVX-512, `bench linears` of 6,144 x 768 and 768 x
3,072)."""


class Weights(NamedTuple):
    """What a linear multiplies with."""

    weight: Tensor
    """[out, in], the last dimension contiguous."""
    scale: Tensor | None = None
    """[out], float32, contiguous: a factor of each output, for weights of int8."""
    bias: Tensor | None = None
    """[out], float32, contiguous."""


@cache
def has_dots() -> bool:
    """Whether the processor multiplies bfloat16 by an instruction of its own, and not by tiles (AMX): those are
    oneDNN's, and what was measured is a processor without them."""
    names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    vectors, tiles = (getattr(torch.cpu, name, lambda: False)() for name in names)  # torch promises them to nobody
    return bool(vectors and not tiles)


def kernels(input: torch.dtype, weight: torch.dtype) -> tuple[Kernel, ...] | None:
    """What widens the rows, where that has to be, and what multiplies, compiled; None where they cannot be had."""
    if (input, weight) not in SERVED:
        return None
    if input is weight is torch.bfloat16 and has_dots():
        dots = kernel_of("cpu_linear_jit", "dots_bfloat16")
        return (dots,) if dots else None
    rows = kernel_of("cpu_linear_jit", f"rows_{NAMES[input]}_{NAMES[weight]}")
    product = kernel_of("cpu_linear_jit", f"product_{NAMES[input]}_{NAMES[weight]}") if rows else None
    return (rows, product) if rows and product else None


def most_rows(input: torch.dtype, weight: torch.dtype) -> int:
    """Up to so many rows ``linear`` is worth its call."""
    return FEW_ROWS_BY_DOTS if input is weight is torch.bfloat16 and has_dots() else FEW_ROWS


def linear(x: Tensor, weights: Weights, out: Tensor) -> bool:
    """``out = x @ weight.T * scale + bias``, summed in float32, rounded once; a row's bits do not hang on the others.
    The processor's own instruction takes products below 2^-126 for 0.

    Args:
        x: [rows, in].
        out: [rows, out], of the dtype of ``x``, the last dimension contiguous.

    Returns:
        False if numba cannot be had or does not serve these dtypes; nothing was written then.
    """
    weight = weights.weight
    found = kernels(x.dtype, weight.dtype)
    if found is None:
        return False
    rows, dim = x.shape
    if not rows:
        return True
    if x.stride(1) != 1:
        x = x.contiguous()
    parts = parts_for(weight.numel() * weight.element_size())
    scratch = torch.empty(scratch_floats(rows, dim, parts), dtype=torch.float32)  # alive until both have run
    table = call_table(x, weights, out, parts, scratch)
    *widen, multiply = found
    for kernel in widen:
        kernel.run(table)
    multiply.run(table, parts)
    return True


def scratch_floats(rows: int, dim: int, parts: int) -> int:
    """Of the rows widened, and of each part's sums."""
    return rows * _stride(dim) + parts * SUMS


def _stride(dim: int) -> int:
    return -(-dim // SUMS) * SUMS


def call_table(x: Tensor, weights: Weights, out: Tensor, parts: int, scratch: Tensor) -> array[int]:
    """In the order of the places; ``scratch`` is float32, of ``scratch_floats`` numbers."""
    rows, dim = x.shape
    stride, wide = _stride(dim), scratch.data_ptr()
    weight, scale, bias = weights
    return array("q", (
        x.data_ptr(), x.stride(0), wide, stride, weight.data_ptr(), weight.stride(0),
        0 if scale is None else scale.data_ptr(), 0 if bias is None else bias.data_ptr(), out.data_ptr(), out.stride(0),
        rows, dim, len(weight), parts, wide + 4 * rows * stride, 0, 0,
    ))  # fmt: skip
