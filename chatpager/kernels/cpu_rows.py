"""What a decoder layer does between its products on the CPU, by numba's ``cpu_rows_jit``: each a pass over the rows.

Tensors are [rows, ...] of one dtype, their last dimension contiguous; nothing here is checked again.
"""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from chatpager.kernels.cpu_code import Kernel, bits, kernel_of, parts_for

SERVED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# The places of a call's arguments in its table of int64: addresses, strides in elements. ``cpu_rows_jit`` reads it.
(OP, ROWS, DIM, X, X_ROW, Y, Y_ROW, WEIGHT, WEIGHT_2, OUT, OUT_ROW, EPS, HEADS, KV_HEADS, PARTS, NEXT) = range(16)
NORM, ADD_NORM, ROTATE, GATE, ADD = range(5)
"""What may stand at ``OP``."""


def kernel(dtype: torch.dtype) -> Kernel | None:
    """Compiled, or loaded from before; None where the dtype is not served or numba cannot be had."""
    return kernel_of("cpu_rows_jit", SERVED[dtype]) if dtype in SERVED else None


def norm(found: Kernel, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight`` of [rows, dim]."""
    out = torch.empty_like(x)
    _run(found, norm_table(x, weight, eps, out), x)
    return out


def norm_table(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> array[int]:
    return _table(NORM, x.shape[1], x, x, out, (weight, None), eps)


def add_norm(found: Kernel, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x += y``, and the norm of that."""
    out = torch.empty_like(x)
    _run(found, add_norm_table(x, y, weight, eps, out), x)
    return out


def add_norm_table(x: Tensor, y: Tensor, weight: Tensor, eps: float, out: Tensor) -> array[int]:
    return _table(ADD_NORM, x.shape[1], x, y, out, (weight, None), eps)


def add_table(x: Tensor, y: Tensor) -> array[int]:
    """``x += y``."""
    return _table(ADD, x.shape[1], x, y, x)


def rotate(
    found: Kernel,
    x: Tensor,
    heads: tuple[int, int],
    angles: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
) -> None:
    """Rotate queries and keys in place, normed first where there are ``weights`` for the two.

    Args:
        x: [rows, at least (heads + kv_heads) * dim].
        angles: cosines and sines, [rows, dim], with equal strides.
    """
    _run(found, rotate_table(x, heads, angles, weights, eps), x)


def rotate_table(
    x: Tensor,
    heads: tuple[int, int],
    angles: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
) -> array[int]:
    cos, sin = angles
    return _table(ROTATE, cos.shape[1], x, cos, sin, weights or (None, None), eps, heads)


def gate(found: Kernel, x: Tensor) -> Tensor:
    """``silu(x[:, :dim]) * x[:, dim:]`` of [rows, 2 * dim]."""
    out = x.new_empty(x.shape[0], x.shape[1] // 2)
    _run(found, gate_table(x, out), x)
    return out


def gate_table(x: Tensor, out: Tensor) -> array[int]:
    return _table(GATE, out.shape[1], x, x, out)


def _run(found: Kernel, table: array[int], x: Tensor) -> None:
    parts = min(len(x), parts_for(x.numel() * x.element_size()))
    table[PARTS] = parts
    found.run(table, parts)


def _table(
    op: int,
    dim: int,
    x: Tensor,
    y: Tensor,
    out: Tensor,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
    eps: float = 0.0,
    heads: tuple[int, int] = (0, 0),
) -> array[int]:
    """In the order of the places, with one part."""
    first, second = (0 if weight is None else weight.data_ptr() for weight in weights)
    return array("q", (
        op, len(x), dim, x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), first, second,
        out.data_ptr(), out.stride(0), bits(eps), *heads, 1, 0,
    ))  # fmt: skip
