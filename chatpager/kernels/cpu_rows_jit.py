# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What a decoder layer does between its products, row by row, compiled by numba: norms, rotary embedding, gate.

bfloat16 is rounded wherever transformers' modules round it, so that a fused layer computes what the plain one does, but
for the order of a norm's sum and the last bits of an exponential.
"""

import numpy as np

from chatpager.kernels.cpu_entry import as_c_calls_it, jit, put, rounded, widen
from chatpager.kernels.cpu_row_vectors import scaled, squares
from chatpager.kernels.cpu_rows import (
    ADD,
    DIM,
    EPS,
    GATE,
    HEADS,
    KV_HEADS,
    NEXT,
    NORM,
    OP,
    OUT,
    OUT_ROW,
    PARTS,
    ROTATE,
    ROWS,
    WEIGHT,
    WEIGHT_2,
    X_ROW,
    Y_ROW,
    X,
    Y,
)
from chatpager.kernels.cpu_tiles import ONE, exp
from chatpager.kernels.cpu_vectors import LANES, bfloat16_at, float32_at, float_of_bits, next_of


@jit
def sum_of_squares(x, at, dim):
    total = squares(x, at, dim)
    for d in range(dim // LANES * LANES, dim):
        v = widen(x[at + d])
        total += v * v
    return total


@jit
def scale_of(x, at, dim, eps):
    return ONE / np.sqrt(sum_of_squares(x, at, dim) / np.float32(dim) + eps)


@jit
def norm(x, at, weight, out, to, dim, eps):
    """Zhang and Sennrich 2019; ``out`` may be ``x``."""
    scale = scale_of(x, at, dim, eps)
    scaled(x, at, weight, out, to, dim, scale)
    for d in range(dim // LANES * LANES, dim):
        put(out, to + d, widen(weight[d]) * rounded(out, widen(x[at + d]) * scale))


@jit
def add(x, at, y, other, dim):
    for d in range(dim):
        put(x, at + d, widen(x[at + d]) + widen(y[other + d]))


@jit
def turn(x, at, cos, sin, angle, half):
    """Su et al. 2021, halves paired as in GPT-NeoX."""
    for d in range(half):
        a, b = widen(x[at + d]), widen(x[at + half + d])
        low = rounded(x, a * widen(cos[angle + d])) - rounded(x, b * widen(sin[angle + d]))
        high = rounded(x, b * widen(cos[angle + half + d])) + rounded(x, a * widen(sin[angle + half + d]))
        put(x, at + d, low)
        put(x, at + half + d, high)


@jit
def gate(x, at, out, to, dim):
    """SwiGLU (Shazeer 2020): the first half through SiLU, times the second."""
    for d in range(dim):
        g = widen(x[at + d])
        put(out, to + d, rounded(out, g / (ONE + exp(-g))) * widen(x[at + dim + d]))


@jit
def rotate(p, x, row, weight, weight_2, cos, sin, eps):
    dim, heads = p[DIM], p[HEADS]
    for head in range(heads + p[KV_HEADS]):
        at = row * p[X_ROW] + head * dim
        if p[WEIGHT]:
            if head < heads:
                norm(x, at, weight, x, at, dim, eps)
            else:
                norm(x, at, weight_2, x, at, dim, eps)
        turn(x, at, cos, sin, row * p[Y_ROW], dim // 2)


@jit
def work(p, x, y, weight, weight_2, out):
    """Take parts of the rows until there are none."""
    op, rows, dim, parts, eps = p[OP], p[ROWS], p[DIM], p[PARTS], float_of_bits(np.uint32(p[EPS]))
    part = next_of(p, NEXT)
    while part < parts:
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            at, to = row * p[X_ROW], row * p[OUT_ROW]
            if op == ROTATE:
                rotate(p, x, row, weight, weight_2, y, out, eps)
            elif op == GATE:
                gate(x, at, out, to, dim)
            else:
                if op != NORM:
                    add(x, at, y, row * p[Y_ROW], dim)
                if op != ADD:
                    norm(x, at, weight, out, to, dim, eps)
        part = next_of(p, NEXT)


def compiled(name):
    """``float32`` or ``bfloat16`` as C calls it."""

    def float32(p):  # pragma: no cover
        work(p, float32_at(p[X]), float32_at(p[Y]), float32_at(p[WEIGHT]), float32_at(p[WEIGHT_2]), float32_at(p[OUT]))

    def bfloat16(p):  # pragma: no cover
        at = bfloat16_at
        work(p, at(p[X]), at(p[Y]), at(p[WEIGHT]), at(p[WEIGHT_2]), at(p[OUT]))

    return as_c_calls_it({"float32": float32, "bfloat16": bfloat16}[name])
