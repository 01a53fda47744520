# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What the CPU kernels share when numba compiles them: how, a number of float32 or bfloat16 in and out, and C's entry.

Importing this imports numba: seconds, not milliseconds.
"""

import numba
import numpy as np
from numba import types

from chatpager.kernels.cpu_vectors import INT64, LANES, bits_of_float, float_of_bits

jit = numba.njit(fastmath={"contract"}, error_model="numpy")
pasted = numba.njit(inline="always")
"""Part of its caller: LLVM works on a function once more for every one that it is called through."""


def widen(x):
    raise NotImplementedError


@numba.extending.overload(widen)
def _widen(x):
    if x == types.float32:
        return lambda x: x
    return lambda x: float_of_bits(np.uint32(x) << np.uint32(16))


@jit
def nearest(x):
    """The bits of a float32 whose upper half is the nearest bfloat16, ties to even."""
    bits = bits_of_float(x)
    near = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.uint32(0x7FC00000) if x != x else near


def put(base, index, x):
    raise NotImplementedError


@numba.extending.overload(put)
def _put(base, index, x):
    if base.dtype == types.float32:

        def store(base, index, x):
            base[index] = x
    else:

        def store(base, index, x):
            base[index] = np.uint16(nearest(x) >> np.uint32(16))

    return store


def rounded(base, x):
    """``x`` as it would be read back from ``base``."""
    raise NotImplementedError


@numba.extending.overload(rounded)
def _rounded(base, x):
    if base.dtype == types.float32:
        return lambda base, x: x
    return lambda base, x: float_of_bits(nearest(x) & np.uint32(0xFFFF0000))


def place(base, d, dim):
    """Where the number at ``d`` of ``dim`` lies beside those that are read from ``base`` in pairs: of bfloat16 those at
    even places of each 16 come first, past the last whole 16 all are in order."""
    raise NotImplementedError


@numba.extending.overload(place)
def _place(base, d, dim):
    if base.dtype == types.float32:
        return lambda base, d, dim: d

    def spread_place(base, d, dim):
        if d >= dim // LANES * LANES:
            return d
        return d // LANES * LANES + d % 2 * (LANES // 2) + d % LANES // 2

    return spread_place


def as_c_calls_it(entry):
    """A function of the address of a table of int64, compiled; ``kept_code`` keeps it, and not numba, which would have
    to be imported to find it again."""
    return numba.cfunc(types.void(INT64))(entry)
