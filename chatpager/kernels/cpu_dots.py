# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Products of bfloat16 by the processor's own instruction for them (VDPBF16PS of AVX-512): 32 products and 16 sums in
one, where widening both sides takes eight instructions. It rounds each pair's sums to float32, and denormals to zero.
"""

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from chatpager.kernels.cpu_vectors import (
    BFLOAT16,
    F32,
    I16,
    I32,
    I64,
    ask_for,
    element_at,
    load,
    loop,
    vector_of,
)

binding.initialize_native_asmparser()

WORDS = 16
"""A register of the instruction: so many float32, or twice as many bfloat16."""
STEP = 2 * WORDS


def can_dot():
    """Whether numba compiles for a processor that has the instruction."""
    asked = config.CPU_NAME, config.CPU_FEATURES, not config.ENABLE_AVX
    return not any(asked) and binding.get_host_cpu_features().get("avx512bf16", False)


def require_dots():
    """LLVM would end the process.

    Raises:
        RuntimeError: numba compiles for a processor without the instruction.
    """
    if not can_dot():
        raise RuntimeError("its settings (NUMBA_CPU_NAME and others) leave out AVX-512 BF16")


def dot(builder, sums, a, b):
    """``sums`` and, for each, the products of two neighbours of the 32 bfloat16 in ``a`` and ``b``. In assembler, as
    LLVM's own name and types for it have changed with its versions."""
    kind = ir.FunctionType(vector_of(WORDS), [vector_of(WORDS), vector_of(WORDS, I32), vector_of(WORDS, I32)])
    return builder.call(ir.InlineAsm(kind, "vdpbf16ps $3, $2, $0", "=v,0,v,v"), [sums, a, b])


def _neighbours(builder, low, high):
    """The sums of each two neighbours in ``low`` and behind it ``high``, which may be nothing."""
    lanes = low.type.count
    count = lanes if high else lanes // 2
    places = [ir.Constant(ir.VectorType(I32, count), list(range(start, 2 * count, 2))) for start in (0, 1)]
    high = high or ir.Constant(low.type, ir.Undefined)
    return builder.fadd(*(builder.shuffle_vector(low, high, chosen) for chosen in places))


def _totals(builder, vectors):
    """The sum of each vector, as one vector: of neighbours, of neighbours among those, and so on, however many there
    are, so that its bits do not hang on that."""
    many = len(vectors)
    while len(vectors) > 1:
        vectors = [_neighbours(builder, *vectors[i : i + 2]) for i in range(0, len(vectors), 2)]
    (vector,) = vectors
    while vector.type.count > many:
        vector = _neighbours(builder, vector, None)
    return vector


def _nearest(builder, vector):
    """bfloat16 nearest to float32, ties to even, as int16."""
    lanes = vector.type.count
    wide = ir.VectorType(I32, lanes)

    def all_of(number):
        return ir.Constant(wide, [number] * lanes)

    bits = builder.bitcast(vector, wide)
    odd = builder.and_(builder.lshr(bits, all_of(16)), all_of(1))
    near = builder.add(builder.add(bits, all_of(0x7FFF)), odd)
    near = builder.select(builder.fcmp_unordered("uno", vector, vector), all_of(0x7FC00000), near)
    return builder.trunc(builder.lshr(near, all_of(16)), ir.VectorType(I16, lanes))


@intrinsic(prefer_literal=True)
def row_dots(
    typing, columns, rows, weights, weight, weight_stride, inputs, input, input_stride, dim, bias, out, to, to_stride
):
    """``out[to + to_stride * i + j]`` becomes row i of the inputs times row j of the weights, each of ``dim`` numbers,
    and ``bias[j]`` unless that is no address; j below ``columns``, a power of two, i below ``rows``.

    A sum is taken in the same order whatever ``columns`` and ``rows`` are. The rows of weights after these are asked
    for.
    """
    m, n = columns.literal_value, rows.literal_value

    def build(context, builder, signature, args):
        _, _, weights, weight, weight_stride, inputs, input, input_stride, dim, bias, out, to, to_stride = args
        w = [builder.add(weight, builder.mul(weight_stride, I64(j))) for j in range(m)]
        later = builder.mul(weight_stride, I64(m))
        x = [builder.add(input, builder.mul(input_stride, I64(i))) for i in range(n)]
        kept = [[cgutils.alloca_once_value(builder, ir.Constant(vector_of(WORDS), None)) for _ in w] for _ in x]
        whole = builder.and_(dim, I64(-STEP))

        def words(base, index):
            return builder.load(element_at(builder, base, index, WORDS, vector_of(WORDS, I32)), align=2)

        with loop(builder, I64(0), whole, STEP) as (d, _):
            for place in w:
                ask_for(builder, weights, builder.add(builder.add(place, d), later))
            wide = [words(weights, builder.add(place, d)) for place in w]
            for i, place in enumerate(x):
                q = words(inputs, builder.add(place, d))
                for j in range(m):
                    builder.store(dot(builder, builder.load(kept[i][j]), q, wide[j]), kept[i][j])
        flat = ir.VectorType(F32, m)
        zero = ir.Constant(flat, None)
        more = cgutils.alloca_once_value(builder, zero)
        with builder.if_then(builder.icmp_unsigned("!=", bias, I64(0))):
            place = builder.inttoptr(bias, flat.as_pointer())
            builder.store(builder.load(place, align=4), more)
        for i in range(n):
            rest = cgutils.alloca_once_value(builder, zero)
            with loop(builder, whole, dim, 1) as (d, _):
                q = load(builder, inputs, builder.add(x[i], d), 1)
                for j in range(m):
                    v = load(builder, weights, builder.add(w[j], d), 1)
                    kept_rest = builder.load(rest)
                    total = builder.fadd(builder.extract_element(kept_rest, I32(j)), builder.fmul(q, v))
                    builder.store(builder.insert_element(kept_rest, total, I32(j)), rest)
            totals = _totals(builder, [builder.load(place) for place in kept[i]])
            total = builder.fadd(builder.fadd(totals, builder.load(rest)), builder.load(more))
            at = builder.gep(out, [builder.add(to, builder.mul(to_stride, I64(i)))])
            builder.store(_nearest(builder, total), builder.bitcast(at, ir.VectorType(I16, m).as_pointer()), align=2)
        return context.get_dummy_value()

    place = types.int64
    return (
        types.none(columns, rows, BFLOAT16, place, place, BFLOAT16, place, place, place, place, BFLOAT16, place, place),
        build,
    )
