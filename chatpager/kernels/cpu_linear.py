"""A linear of few rows on the CPU, by numba's ``cpu_linear_jit`` where numba can be had."""

from __future__ import annotations

from array import array
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


class Weights(NamedTuple):
    """What a linear multiplies with."""

    weight: Tensor
    """[out, in], the last dimension contiguous."""
    scale: Tensor | None = None
    """[out], float32, contiguous: a factor of each output, for weights of int8."""
    bias: Tensor | None = None
    """[out], float32, contiguous."""


def kernels(input: torch.dtype, weight: torch.dtype) -> tuple[Kernel, Kernel] | None:
    """What widens the rows and what multiplies, compiled; None where they cannot be had."""
    if (input, weight) not in SERVED:
        return None
    rows = kernel_of("cpu_linear_jit", f"rows_{NAMES[input]}_{NAMES[weight]}")
    product = kernel_of("cpu_linear_jit", f"product_{NAMES[input]}_{NAMES[weight]}") if rows else None
    return (rows, product) if rows and product else None


def linear(x: Tensor, weights: Weights, out: Tensor) -> bool:
    """``out = x @ weight.T * scale + bias``, summed in float32, rounded once; a row's bits do not hang on the others.

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
    widen, multiply = found
    widen.run(table)
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
