"""What a decoder layer does between its products on the CPU, by numba's ``cpu_rows_jit``: each a pass over the rows.

Tensors are [rows, ...] of one dtype, their last dimension contiguous; nothing here is checked again.
"""

from __future__ import annotations

import struct
from array import array
from functools import cache

import torch
from torch import Tensor

from chatpager.kernels.cpu_code import Kernel, kernel_of, parts_for

SERVED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
NORM, ADD_NORM, ROTATE, GATE = range(4)


def kernel(dtype: torch.dtype) -> Kernel | None:
    """Compiled, or loaded from before; None where the dtype is not served or numba cannot be had."""
    return kernel_of("cpu_rows_jit", SERVED[dtype]) if dtype in SERVED else None


def norm(found: Kernel, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight`` of [rows, dim]."""
    out = torch.empty_like(x)
    rows, dim = x.shape
    _run(found, NORM, rows, dim, x, x, weight, weight, out, eps)
    return out


def add_norm(found: Kernel, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x += y``, and the norm of that."""
    out = torch.empty_like(x)
    rows, dim = x.shape
    _run(found, ADD_NORM, rows, dim, x, y, weight, weight, out, eps)
    return out


def rotate(
    found: Kernel,
    x: Tensor,
    heads: tuple[int, int],
    dim: int,
    angles: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
) -> None:
    """Rotate queries and keys in place, normed first where there are ``weights`` for the two.

    Args:
        x: [rows, at least (heads + kv_heads) * dim].
        angles: cosines and sines, [rows, dim], with equal strides.
    """
    cos, sin = angles
    query, key = weights or (None, None)
    _run(found, ROTATE, len(x), dim, x, cos, query, key, sin, eps, heads)


def gate(found: Kernel, x: Tensor) -> Tensor:
    """``silu(x[:, :dim]) * x[:, dim:]`` of [rows, 2 * dim]."""
    rows, dim = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, dim)
    _run(found, GATE, rows, dim, x, x, None, None, out, 0.0)
    return out


@cache
def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<f", number), "little")


def _run(
    found: Kernel,
    op: int,
    rows: int,
    dim: int,
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    weight_2: Tensor | None,
    out: Tensor,
    eps: float,
    heads: tuple[int, int] = (0, 0),
) -> None:
    parts = min(rows, parts_for(x.numel() * x.element_size()))
    table = array("q", (
        op, rows, dim, x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0),
        0 if weight is None else weight.data_ptr(), 0 if weight_2 is None else weight_2.data_ptr(),
        out.data_ptr(), out.stride(0), _bits(eps), *heads, parts, 0,
    ))  # fmt: skip
    found.run(table, parts)
