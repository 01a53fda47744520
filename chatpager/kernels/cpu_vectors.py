# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What numba lacks for the CPU kernels: typed pointers from addresses, and loops over vectors of 16 floats.

The vectors are LLVM's, which cuts them to what the processor has (one register of AVX-512, two of AVX2, four of SSE
or NEON). Written as plain loops the same code depends on what the vectoriser can prove: bfloat16 was left scalar.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
CACHE_LINE = 64
PAIR = LANES // 2
"""bfloat16 are widened two at a time, from a word that holds both."""
I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
CONTRACT = ("contract",)
"""A product and a sum may become one instruction."""

FLOAT32 = types.CPointer(types.float32)
BFLOAT16 = types.CPointer(types.uint16)
"""numba has no bfloat16: its upper half of a float32 is carried as an integer."""
INT8 = types.CPointer(types.int8)
INT32 = types.CPointer(types.int32)
INT64 = types.CPointer(types.int64)


def _pointer_to(kind):
    @intrinsic
    def pointer(typing, address):
        def build(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.int64), build

    return pointer


float32_at, bfloat16_at, int8_at, int32_at, int64_at = map(_pointer_to, (FLOAT32, BFLOAT16, INT8, INT32, INT64))


@intrinsic
def next_of(typing, table, place):
    """What stands in the table, to which one is added; no two threads get the same."""

    def build(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), I64(1), "seq_cst")

    return types.int64(INT64, types.int64), build


def ask_for(builder, base, index):
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    where = builder.bitcast(builder.gep(base, [index]), pointer)
    builder.call(function, [where, I32(0), I32(2), I32(1)])


@intrinsic
def prefetch(typing, base, index):
    """Ask for the memory at ``base[index]``; any address is allowed."""

    def build(context, builder, signature, args):
        ask_for(builder, *args)
        return context.get_dummy_value()

    return types.none(base, types.int64), build


@intrinsic
def copy_bytes(typing, target, source, count):
    """memcpy between two addresses."""

    def build(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(
            builder, builder.inttoptr(args[0], pointer), builder.inttoptr(args[1], pointer), args[2], 1, align=1
        )
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), build


def vector_of(lanes, of=F32):
    return of if lanes == 1 else ir.VectorType(of, lanes)


def element_at(builder, base, index, lanes, kind=None):
    place = builder.gep(base, [index])
    return place if lanes == 1 else builder.bitcast(place, (kind or vector_of(lanes, base.type.pointee)).as_pointer())


def load(builder, base, index, lanes):
    """``lanes`` elements from ``base[index]`` as float32."""
    place = element_at(builder, base, index, lanes)
    if base.type.pointee == F32:
        return builder.load(place, align=4)
    if base.type.pointee == I8:
        return builder.sitofp(builder.load(place, align=1), vector_of(lanes))
    wide = builder.zext(builder.load(place, align=2), vector_of(lanes, I32))
    sixteen = I32(16) if lanes == 1 else ir.Constant(vector_of(lanes, I32), [16] * lanes)
    return builder.bitcast(builder.shl(wide, sixteen), vector_of(lanes))


def _store(builder, value, base, index, lanes):
    builder.store(value, element_at(builder, base, index, lanes), align=4)


def fused(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)


def splat(builder, value, lanes):
    if lanes == 1:
        return value
    kind = vector_of(lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(vector_of(lanes, I32), [0] * lanes)
    )


def loop(builder, start, stop, step):
    return cgutils.for_range_slice(builder, start, stop, I64(step), intp=I64)


def _pair(builder, base, index):
    """16 numbers from ``base[index]`` as two vectors of float32. Of bfloat16 those at even and those at odd places: two
    instructions, where keeping their order takes four. Of others the first and the last eight."""
    if base.type.pointee != I16:
        return [load(builder, base, builder.add(index, I64(PAIR * half)), PAIR) for half in range(2)]
    kind = vector_of(PAIR, I32)
    both = builder.load(element_at(builder, base, index, LANES, kind), align=2)
    even = builder.shl(both, ir.Constant(kind, [16] * PAIR))
    odd = builder.and_(both, ir.Constant(kind, [0xFFFF0000] * PAIR))
    return builder.bitcast(even, vector_of(PAIR)), builder.bitcast(odd, vector_of(PAIR))


def _sum_of_pairs(builder, vector):
    """Always in the same order, whatever stands around it."""
    lanes = PAIR
    while lanes > 1:
        lanes //= 2
        nothing = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(vector, nothing, ir.Constant(vector_of(lanes, I32), list(places)))
            if lanes > 1
            else builder.extract_element(vector, I32(places[0]))
            for places in (range(lanes), range(lanes, 2 * lanes))
        )
        vector = builder.fadd(low, high)
    return vector


@intrinsic(prefer_literal=True)
def dots(typing, heads, keys, key, queries, dim, scores):
    """``scores[LANES * j] = keys[key : key + dim] . queries[dim * j : dim * (j + 1)]`` for j below ``heads``; queries
    lie as ``_pair`` gives keys."""
    count = heads.literal_value

    def build(context, builder, signature, args):
        _, keys, key, queries, dim, scores = args
        whole = builder.and_(dim, I64(-LANES))
        zero = ir.Constant(vector_of(PAIR), None)
        kept = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(count)]
        rest = [cgutils.alloca_once_value(builder, F32(0)) for _ in range(count)]
        with loop(builder, I64(0), whole, LANES) as (d, _):
            for half, k in enumerate(_pair(builder, keys, builder.add(key, d))):
                for j in range(count):
                    place = builder.add(builder.mul(dim, I64(j)), builder.add(d, I64(PAIR * half)))
                    q = load(builder, queries, place, PAIR)
                    builder.store(fused(builder, k, q, builder.load(kept[j][half])), kept[j][half])
        with loop(builder, whole, dim, 1) as (d, _):
            k = load(builder, keys, builder.add(key, d), 1)
            for j, place in enumerate(rest):
                q = load(builder, queries, builder.add(builder.mul(dim, I64(j)), d), 1)
                builder.store(fused(builder, k, q, builder.load(place)), place)
        for j in range(count):
            both = builder.fadd(*(builder.load(half) for half in kept[j]))
            total = builder.fadd(_sum_of_pairs(builder, both), builder.load(rest[j]))
            _store(builder, total, scores, I64(LANES * j), 1)
        return context.get_dummy_value()

    return types.none(heads, keys, types.int64, FLOAT32, types.int64, FLOAT32), build


@intrinsic(prefer_literal=True)
def mix(typing, heads, values, base, offsets, count, weights, dim, sums):
    """``sums[dim * j : dim * (j + 1)] += weights[LANES * j + t] * values[base + offsets[t] :][:dim]`` for t below
    ``count`` and j below ``heads``; the sums stay in registers for all of the tokens, and lie as ``_pair`` gives
    values."""
    heads_count = heads.literal_value

    def build(context, builder, signature, args):
        _, values, base, offsets, count, weights, dim, sums = args
        whole = builder.and_(dim, I64(-LANES))
        for lanes, parts, start, stop in ((PAIR, 2, I64(0), whole), (1, 1, whole, dim)):
            kept = [[cgutils.alloca_once(builder, vector_of(lanes)) for _ in range(parts)] for _ in range(heads_count)]
            with loop(builder, start, stop, lanes * parts) as (d, _):
                places = [
                    [builder.add(builder.mul(dim, I64(j)), builder.add(d, I64(lanes * half))) for half in range(parts)]
                    for j in range(heads_count)
                ]
                for j in range(heads_count):
                    for half in range(parts):
                        builder.store(load(builder, sums, places[j][half], lanes), kept[j][half])
                with loop(builder, I64(0), count, 1) as (t, _):
                    at = builder.add(builder.add(builder.load(builder.gep(offsets, [t])), base), d)
                    v = [load(builder, values, at, 1)] if parts == 1 else _pair(builder, values, at)
                    for j in range(heads_count):
                        w = splat(builder, load(builder, weights, builder.add(t, I64(LANES * j)), 1), lanes)
                        for half in range(parts):
                            builder.store(fused(builder, v[half], w, builder.load(kept[j][half])), kept[j][half])
                for j in range(heads_count):
                    for half in range(parts):
                        _store(builder, builder.load(kept[j][half]), sums, places[j][half], lanes)
        return context.get_dummy_value()

    return types.none(heads, values, types.int64, INT64, types.int64, FLOAT32, types.int64, FLOAT32), build


@intrinsic
def spread(typing, source, start, target, to):
    """``target[to:][:16]`` is ``source[start:][:16]`` as float32: first those at even, then those at odd places."""

    def build(context, builder, signature, args):
        source, start, target, to = args
        for i, half in enumerate(_pair(builder, source, start)):
            builder.store(half, element_at(builder, target, builder.add(to, I64(PAIR * i)), PAIR), align=4)
        return context.get_dummy_value()

    return types.none(BFLOAT16, types.int64, FLOAT32, types.int64), build


@intrinsic(prefer_literal=True)
def products(typing, columns, rows, weights, weight, weight_stride, inputs, input, input_stride, dim, sums):
    """``sums[columns * i + j]`` becomes row i of the inputs times row j of the weights, each of ``dim`` numbers.

    Beside weights of bfloat16 the inputs lie as ``spread`` leaves them, past the last whole 16 in order. A sum is taken
    in the same order whatever ``columns`` and ``rows`` are. The rows of weights after these are asked for.
    """
    m, n = columns.literal_value, rows.literal_value
    line = CACHE_LINE // {types.float32: 4, types.uint16: 2, types.int8: 1}[weights.dtype]

    def build(context, builder, signature, args):
        _, _, weights, weight, weight_stride, inputs, input, input_stride, dim, sums = args
        w = [builder.add(weight, builder.mul(weight_stride, I64(j))) for j in range(m)]
        later = builder.mul(weight_stride, I64(m))
        x = [builder.add(input, builder.mul(input_stride, I64(i))) for i in range(n)]
        kept = [[cgutils.alloca_once_value(builder, ir.Constant(vector_of(PAIR), None)) for _ in w] for _ in x]
        rest = [[cgutils.alloca_once_value(builder, F32(0)) for _ in w] for _ in x]

        def sixteen(d):
            wide = [_pair(builder, weights, builder.add(place, d)) for place in w]
            for half in range(2):
                for i, place in enumerate(x):
                    q = load(builder, inputs, builder.add(place, builder.add(d, I64(PAIR * half))), PAIR)
                    for j in range(m):
                        builder.store(fused(builder, wide[j][half], q, builder.load(kept[i][j])), kept[i][j])

        lines, whole = builder.and_(dim, I64(-line)), builder.and_(dim, I64(-LANES))
        for start, stop, step in ((I64(0), lines, line), (lines, whole, LANES)):
            with loop(builder, start, stop, step) as (d, _):
                if stop is lines:
                    for place in w:
                        ask_for(builder, weights, builder.add(builder.add(place, d), later))
                for more in range(0, step, LANES):
                    sixteen(builder.add(d, I64(more)))
        with loop(builder, whole, dim, 1) as (d, _):
            for i in range(n):
                q = load(builder, inputs, builder.add(x[i], d), 1)
                for j in range(m):
                    v = load(builder, weights, builder.add(w[j], d), 1)
                    builder.store(fused(builder, v, q, builder.load(rest[i][j])), rest[i][j])
        for i in range(n):
            for j in range(m):
                total = builder.fadd(_sum_of_pairs(builder, builder.load(kept[i][j])), builder.load(rest[i][j]))
                _store(builder, total, sums, I64(m * i + j), 1)
        return context.get_dummy_value()

    place = types.int64
    return types.none(columns, rows, weights, place, place, FLOAT32, place, place, place, FLOAT32), build


def _bits(kind, of):
    @intrinsic
    def cast(typing, value):
        def build(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(kind))

        return kind(of), build

    return cast


float_of_bits, bits_of_float = _bits(types.float32, types.uint32), _bits(types.uint32, types.float32)


@intrinsic
def power_of_two(typing, shifted):
    """2^n of n + 1.5 * 2^23, n between -126 and 127: in that sum n is what the lowest bits hold."""

    def build(context, builder, signature, args):
        bits = builder.shl(builder.bitcast(args[0], I32), I32(23))
        return builder.bitcast(builder.add(bits, I32(127 << 23)), F32)

    return types.float32(types.float32), build
