"""A linear of few rows and a bfloat16 weight on the CPU, by numba's ``cpu_linear_jit`` where numba can be had."""

from __future__ import annotations

from array import array
from functools import cache

import torch
from torch import Tensor

from chatpager.kernels.cpu_code import Kernel, kernel_of, parts_for

SUMS = 16
"""Floats a part needs for its sums: a cache line, so that no two parts share one."""


@cache
def kernels() -> tuple[Kernel, Kernel] | None:
    """What widens the rows and what multiplies, compiled; None where they cannot be had."""
    widen = kernel_of("cpu_linear_jit", "widen_rows")
    multiply = kernel_of("cpu_linear_jit", "multiply") if widen else None
    return (widen, multiply) if widen and multiply else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> bool:
    """``out = x @ weight.T + bias``, summed in float32 and rounded once; a row's bits do not hang on the others.

    Args:
        x: [rows, in], bfloat16.
        weight: [out, in], bfloat16, the last dimension contiguous.
        bias: [out], float32, contiguous.
        out: [rows, out], bfloat16, the last dimension contiguous.

    Returns:
        False if numba cannot be had or ``x`` is not bfloat16; nothing was written then.
    """
    found = kernels() if x.dtype is torch.bfloat16 else None
    if found is None:
        return False
    rows, dim = x.shape
    if not rows:
        return True
    if x.stride(1) != 1:
        x = x.contiguous()
    parts = parts_for(2 * weight.numel())
    scratch = torch.empty(scratch_floats(rows, dim, parts), dtype=torch.float32)  # alive until both have run
    table = call_table(x, weight, bias, out, parts, scratch)
    widen, multiply = found
    widen.run(table)
    multiply.run(table, parts)
    return True


def scratch_floats(rows: int, dim: int, parts: int) -> int:
    """Of the rows widened, and of each part's sums."""
    return rows * _stride(dim) + parts * SUMS


def _stride(dim: int) -> int:
    return -(-dim // SUMS) * SUMS


def call_table(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, parts: int, scratch: Tensor) -> array[int]:
    """In the order of the names in ``cpu_linear_jit``; ``scratch`` is float32, of ``scratch_floats`` numbers."""
    rows, dim = x.shape
    stride, wide = _stride(dim), scratch.data_ptr()
    return array("q", (
        x.data_ptr(), x.stride(0), wide, stride, weight.data_ptr(), weight.stride(0),
        0 if bias is None else bias.data_ptr(), out.data_ptr(), out.stride(0),
        rows, dim, len(weight), parts, wide + 4 * rows * stride, 0, 0,
    ))  # fmt: skip
