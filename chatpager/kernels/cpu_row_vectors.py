# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Norms of ``cpu_rows_jit`` over whole vectors of 16 numbers, of float32 or bfloat16, in LLVM's own vectors: of a plain
loop over so few as a head has it made scalars. What is behind the last whole vector is the caller's.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chatpager.kernels.cpu_vectors import F32, I16, I32, I64, LANES, element_at, fused, load, loop, splat, vector_of

WIDE, BITS, HALVES = vector_of(LANES), vector_of(LANES, I32), vector_of(LANES, I16)


def _all(number, kind=F32):
    return ir.Constant(vector_of(LANES, kind), [number] * LANES)


def _nearest(builder, vector):
    """Bits whose upper halves are the nearest bfloat16, ties to even."""
    bits = builder.bitcast(vector, BITS)
    odd = builder.and_(builder.lshr(bits, _all(16, I32)), _all(1, I32))
    near = builder.add(builder.add(bits, _all(0x7FFF, I32)), odd)
    return builder.select(builder.fcmp_unordered("uno", vector, vector), _all(0x7FC00000, I32), near)


def _rounded(builder, vector, base):
    """As it would be read back from ``base``."""
    if base.type.pointee == F32:
        return vector
    return builder.bitcast(builder.and_(_nearest(builder, vector), _all(0xFFFF0000, I32)), WIDE)


def _put(builder, vector, base, index):
    place = element_at(builder, base, index, LANES)
    if base.type.pointee == F32:
        builder.store(vector, place, align=4)
    else:
        builder.store(builder.trunc(builder.lshr(_nearest(builder, vector), _all(16, I32)), HALVES), place, align=2)


def _whole(builder, dim):
    return builder.and_(dim, I64(-LANES))


def _sum(builder, vector):
    """Of neighbours eight apart, then four, two and one."""
    step = LANES
    while step > 1:
        step //= 2
        places = ir.Constant(BITS, [lane ^ step for lane in range(LANES)])
        vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, places))
    return builder.extract_element(vector, I32(0))


@intrinsic
def squares(typing, x, at, dim):
    """The sum of the squares of whole vectors from ``x[at]`` on."""

    def build(context, builder, signature, args):
        x, at, dim = args
        total = cgutils.alloca_once_value(builder, ir.Constant(WIDE, None))
        with loop(builder, I64(0), _whole(builder, dim), LANES) as (d, _):
            value = load(builder, x, builder.add(at, d), LANES)
            builder.store(fused(builder, value, value, builder.load(total)), total)
        return _sum(builder, builder.load(total))

    return types.float32(x, types.int64, types.int64), build


@intrinsic
def scaled(typing, x, at, weight, out, to, dim, scale):
    """``out[to + d] = weight[d] * (x[at + d] * scale)``, the product rounded as ``x`` is; ``out`` may be ``x``."""

    def build(context, builder, signature, args):
        x, at, weight, out, to, dim, scale = args
        with loop(builder, I64(0), _whole(builder, dim), LANES) as (d, _):
            value = builder.fmul(load(builder, x, builder.add(at, d), LANES), splat(builder, scale, LANES))
            value = builder.fmul(load(builder, weight, d, LANES), _rounded(builder, value, out))
            _put(builder, value, out, builder.add(to, d))
        return context.get_dummy_value()

    place = types.int64
    return types.none(x, place, weight, out, place, place, types.float32), build
