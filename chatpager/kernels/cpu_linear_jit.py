# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A linear of few rows on the CPU, compiled by numba: each weight is read from memory once, for all of the rows.

A block of weight rows meets a block of input rows with all their sums in registers (twelve of AVX2's sixteen). A sum
is taken in the same order in every block, so that threads, and the number of rows, change no bit of it.
"""

import numpy as np

from chatpager.kernels.cpu_dots import require_dots, row_dots
from chatpager.kernels.cpu_entry import as_c_calls_it, jit, put, widen
from chatpager.kernels.cpu_linear import (
    BIAS,
    COLUMNS,
    IN,
    INPUT,
    INPUT_ROW,
    NEXT,
    OUT,
    OUT_ROW,
    PARTS,
    ROWS,
    SCALE,
    SUMS_AT,
    WEIGHT,
    WEIGHT_ROW,
    WIDE,
    WIDE_ROW,
    WIDENED,
)
from chatpager.kernels.cpu_vectors import LANES, bfloat16_at, float32_at, int8_at, next_of, products, spread

MOST = 16
"""Sums of a block, at most; `cpu_linear` gives each part room for so many."""


@jit
def spread_rows(p, source):
    """Rows of bfloat16 become float32, laid out as weights of bfloat16 are read; each row once, whoever takes it."""
    wide, dim = float32_at(p[WIDE]), p[IN]
    whole = dim // LANES * LANES
    row = next_of(p, WIDENED)
    while row < p[ROWS]:
        at, to = row * p[INPUT_ROW], row * p[WIDE_ROW]
        for d in range(0, whole, LANES):
            spread(source, at + d, wide, to + d)
        for d in range(whole, dim):
            wide[to + d] = widen(source[at + d])
        row = next_of(p, WIDENED)


@jit
def widen_rows(p, source):
    """The same for other weights: in order."""
    wide, dim = float32_at(p[WIDE]), p[IN]
    row = next_of(p, WIDENED)
    while row < p[ROWS]:
        at, to = row * p[INPUT_ROW], row * p[WIDE_ROW]
        for d in range(dim):
            wide[to + d] = widen(source[at + d])
        row = next_of(p, WIDENED)


@jit
def block(p, w, columns, rows, column, row, sums):
    """The sums of ``columns`` weight rows with ``rows`` input rows, of a shape that ``multiply`` asks for."""
    at, step = column * p[WEIGHT_ROW], p[WEIGHT_ROW]
    x, to, stride, dim = float32_at(p[WIDE]), row * p[WIDE_ROW], p[WIDE_ROW], p[IN]
    if columns == 8:
        products(8, 1, w, at, step, x, to, stride, dim, sums)
    elif columns == 4:
        if rows == 3:
            products(4, 3, w, at, step, x, to, stride, dim, sums)
        else:
            products(4, 2, w, at, step, x, to, stride, dim, sums)
    elif columns == 3:
        if rows == 4:
            products(3, 4, w, at, step, x, to, stride, dim, sums)
        else:
            products(3, 3, w, at, step, x, to, stride, dim, sums)
    elif rows == 4:
        products(1, 4, w, at, step, x, to, stride, dim, sums)
    elif rows == 3:
        products(1, 3, w, at, step, x, to, stride, dim, sums)
    elif rows == 2:
        products(1, 2, w, at, step, x, to, stride, dim, sums)
    else:
        products(1, 1, w, at, step, x, to, stride, dim, sums)


@jit
def multiply(p, weights, out):
    """Take parts of the output's columns until there are none."""
    scale, bias, rows, parts = float32_at(p[SCALE]), float32_at(p[BIAS]), p[ROWS], p[PARTS]
    blocks = (rows + 3) // 4
    widest = (rows + blocks - 1) // blocks
    most = 3 if widest == 4 else 4 if widest > 1 else 8
    part = next_of(p, NEXT)
    while part < parts:
        sums = float32_at(p[SUMS_AT] + 4 * MOST * part)
        column, last = part * p[COLUMNS] // parts, (part + 1) * p[COLUMNS] // parts
        while column < last:
            columns = most if last - column >= most else 1
            for b in range(blocks):
                row = b * rows // blocks
                count = (b + 1) * rows // blocks - row
                block(p, weights, columns, count, column, row, sums)
                for j in range(columns):
                    factor = scale[column + j] if p[SCALE] else np.float32(1)
                    more = bias[column + j] if p[BIAS] else np.float32(0)
                    for i in range(count):
                        put(out, (row + i) * p[OUT_ROW] + column + j, sums[columns * i + j] * factor + more)
            column += columns
        part = next_of(p, NEXT)


@jit
def dot_block(p, w, x, out, columns, rows, column, row):
    """The outputs of ``columns`` weight rows and ``rows`` input rows, of a shape that ``multiply_dots`` asks for."""
    at, step, dim = column * p[WEIGHT_ROW], p[WEIGHT_ROW], p[IN]
    to, stride = row * p[INPUT_ROW], p[INPUT_ROW]
    bias = p[BIAS] + 4 * column if p[BIAS] else 0
    put_at, put_step = row * p[OUT_ROW] + column, p[OUT_ROW]
    if columns == 8:
        row_dots(8, 1, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
    elif columns == 4:
        if rows == 6:
            row_dots(4, 6, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
        elif rows == 5:
            row_dots(4, 5, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
        elif rows == 4:
            row_dots(4, 4, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
        elif rows == 3:
            row_dots(4, 3, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
        else:
            row_dots(4, 2, w, at, step, x, to, stride, dim, bias, out, put_at, put_step)
    else:
        for i in range(rows):
            row_dots(1, 1, w, at, step, x, to + i * stride, stride, dim, bias, out, put_at + i * put_step, put_step)


@jit
def multiply_dots(p, weights, inputs, out):
    """Take parts of the output's columns until there are none."""
    rows, parts = p[ROWS], p[PARTS]
    blocks = (rows + 5) // 6
    most = 4 if rows > 1 else 8
    part = next_of(p, NEXT)
    while part < parts:
        column, last = part * p[COLUMNS] // parts, (part + 1) * p[COLUMNS] // parts
        while column < last:
            columns = most if last - column >= most else 1
            for b in range(blocks):
                row = b * rows // blocks
                count = (b + 1) * rows // blocks - row
                dot_block(p, weights, inputs, out, columns, count, column, row)
            column += columns
        part = next_of(p, NEXT)


def compiled(name):
    """As C calls it: ``rows_INPUT_WEIGHT``, which widens rows, ``product_INPUT_WEIGHT``, or ``dots_bfloat16``.

    Raises:
        RuntimeError: numba compiles for a processor without the instruction that the name asks for.
    """
    if name == "dots_bfloat16":
        require_dots()

    def rows_bfloat16_bfloat16(p):  # pragma: no cover
        spread_rows(p, bfloat16_at(p[INPUT]))

    def rows_float32_float32(p):  # pragma: no cover
        widen_rows(p, float32_at(p[INPUT]))

    def rows_bfloat16_int8(p):  # pragma: no cover
        widen_rows(p, bfloat16_at(p[INPUT]))

    def product_bfloat16_bfloat16(p):  # pragma: no cover
        multiply(p, bfloat16_at(p[WEIGHT]), bfloat16_at(p[OUT]))

    def dots_bfloat16(p):  # pragma: no cover
        multiply_dots(p, bfloat16_at(p[WEIGHT]), bfloat16_at(p[INPUT]), bfloat16_at(p[OUT]))

    def product_float32_float32(p):  # pragma: no cover
        multiply(p, float32_at(p[WEIGHT]), float32_at(p[OUT]))

    def product_bfloat16_int8(p):  # pragma: no cover
        multiply(p, int8_at(p[WEIGHT]), bfloat16_at(p[OUT]))

    def product_float32_int8(p):  # pragma: no cover
        multiply(p, int8_at(p[WEIGHT]), float32_at(p[OUT]))

    entries = {entry.__name__: entry for entry in (
        rows_bfloat16_bfloat16, rows_float32_float32, rows_bfloat16_int8, product_bfloat16_bfloat16,
        dots_bfloat16, product_float32_float32, product_bfloat16_int8, product_float32_int8,
    )}  # fmt: skip
    return as_c_calls_it({**entries, "rows_float32_int8": rows_float32_float32}[name])
