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
    stride = -(-dim // SUMS) * SUMS
    scratch = torch.empty(rows * stride + parts * SUMS, dtype=torch.float32)
    wide = scratch.data_ptr()
    table = array("q", (
        x.data_ptr(), x.stride(0), wide, stride, weight.data_ptr(), weight.stride(0),
        0 if bias is None else bias.data_ptr(), out.data_ptr(), out.stride(0),
        rows, dim, len(weight), parts, wide + 4 * rows * stride, 0,
    ))  # fmt: skip
    widen, multiply = found
    widen.run(table)
    multiply.run(table, parts)
    return True
