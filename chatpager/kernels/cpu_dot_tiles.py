# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Attention of a few queries with a tile of tokens by the processor's products of bfloat16 (see ``cpu_dots``).

Keys are packed with tokens side by side and two neighbouring dimensions to a word, so that a query's scores with 16
tokens are one register and need no sum across it; values with two neighbouring tokens to a word, so that a weight pair
meets 16 dimensions at once. Weights are rounded to bfloat16, as torch's own fused attention does. Exponentials are
powers of two by a polynomial of degree five, to 3e-7.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chatpager.kernels.cpu_decode import TILE
from chatpager.kernels.cpu_dots import WORDS, dot
from chatpager.kernels.cpu_vectors import CONTRACT, F32, I8, I16, I32, I64, INT64, ask_for, loop, vector_of

GROUPS = TILE // WORDS
LINE = 4 * WORDS
"""Bytes of a register."""
WIDE, INTEGERS = vector_of(WORDS), vector_of(WORDS, I32)
HALVES = vector_of(2 * WORDS, I16)

LOG2E = 1.4426950408889634
SHIFT = 12582912.0
LEAST = -200.0
"""Powers of two below are 0 in float32 whatever they are."""
POWERS = (1.327646081e-3, 9.675540961e-3, 5.550713465e-2, 2.402212024e-1, 6.931469440e-1, 1.0)
"""2^x between -1/2 and 1/2, the highest power's coefficient first: fitted so that the largest error, 2.2e-7 of the
value, is small and 2^0 is 1."""


def _at(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _read(builder, address, kind, align=4):
    return builder.load(_at(builder, address, kind), align=align)


def _write(builder, value, address, align=4):
    builder.store(value, _at(builder, address, value.type), align=align)


def _plus(builder, address, *bytes):
    for more in bytes:
        address = builder.add(address, more if isinstance(more, ir.Value) else I64(more))
    return address


def _ask(builder, address):
    """Any address is allowed."""
    ask_for(builder, builder.inttoptr(address, I8.as_pointer()), I64(0))


def _all(number, lanes=WORDS, kind=F32):
    return ir.Constant(vector_of(lanes, kind), [number] * lanes)


def _splat(builder, value):
    nothing = ir.Constant(vector_of(WORDS, value.type), ir.Undefined)
    first = builder.insert_element(nothing, value, I32(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(INTEGERS, [0] * WORDS))


def _fused(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)


def _chosen(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(vector_of(len(places), I32), places))


def _turned(builder, rows):
    """Sixteen registers of sixteen words, as rows and columns exchanged: blocks of two, of four, of eight, of all."""
    step = 1
    while step < WORDS:
        for i in range(WORDS):
            if not i & step:
                a, b = rows[i], rows[i + step]
                low = [lane if not lane & step else WORDS + lane - step for lane in range(WORDS)]
                high = [lane + step if not lane & step else WORDS + lane for lane in range(WORDS)]
                rows[i], rows[i + step] = _chosen(builder, a, b, low), _chosen(builder, a, b, high)
        step *= 2
    return rows


@intrinsic
def pack_keys(typing, addresses, later, dim, target):
    """Sixteen rows of ``dim`` bfloat16, a multiple of 32, from ``addresses`` to [dim / 2][16 rows][2]. As much is asked
    for at the addresses ``later``: of memory that lies about in pieces the processor guesses little."""

    def build(context, builder, signature, args):
        addresses, later, dim, target = args
        places, asked = (
            [builder.load(builder.gep(rows, [I64(t)])) for t in range(WORDS)] for rows in (addresses, later)
        )
        with loop(builder, I64(0), builder.mul(dim, I64(2)), LINE) as (byte, _):
            for place in asked:
                _ask(builder, _plus(builder, place, byte))
            rows = [_read(builder, _plus(builder, place, byte), INTEGERS, align=2) for place in places]
            to = _plus(builder, target, builder.mul(byte, I64(WORDS)))
            for i, column in enumerate(_turned(builder, rows)):
                _write(builder, column, _plus(builder, to, LINE * i))
        return context.get_dummy_value()

    return types.none(INT64, INT64, types.int64, types.int64), build


@intrinsic(prefer_literal=True)
def pack_values(typing, addresses, later, pairs, dim, target, spread):
    """Rows, ``pairs`` times two, from ``addresses`` to [pairs][dim / 16][16][2 rows]; with ``spread`` of each 16
    dimensions those at even places come first, as ``cpu_entry.place`` says. As much is asked for as by ``pack_keys``.
    """
    order = [*range(0, WORDS, 2), *range(1, WORDS, 2)] if spread.literal_value else range(WORDS)

    def build(context, builder, signature, args):
        addresses, later, pairs, dim, target, _ = args
        width = builder.mul(dim, I64(2))
        with loop(builder, I64(0), pairs, 1) as (pair, _):
            first = builder.mul(pair, I64(2))
            a, b, *asked = (
                builder.load(builder.gep(rows, [_plus(builder, first, i)]))
                for rows in (addresses, later)
                for i in range(2)
            )
            to = _plus(builder, target, builder.mul(builder.mul(pair, I64(2)), width))
            with loop(builder, I64(0), width, LINE) as (byte, _):
                for place in asked:
                    _ask(builder, _plus(builder, place, byte))
                one, two = (_read(builder, _plus(builder, place, byte), HALVES, align=2) for place in (a, b))
                for half in range(2):
                    places = [p for d in order for p in (WORDS * half + d, 2 * WORDS + WORDS * half + d)]
                    packed = _chosen(builder, one, two, places)
                    _write(builder, packed, _plus(builder, to, builder.mul(byte, I64(2)), LINE * half))
        return context.get_dummy_value()

    return types.none(INT64, INT64, types.int64, types.int64, types.int64, spread), build


def _paired_products(builder, rows, columns, count, left, right):
    """Sums over ``count`` of pairs ``left(i, at)`` of row i, a word for all, times ``right(j, at)``, a register."""
    kept = [[cgutils.alloca_once_value(builder, ir.Constant(WIDE, None)) for _ in range(columns)] for _ in range(rows)]
    with loop(builder, I64(0), count, 1) as (at, _):
        wide = [right(j, at) for j in range(columns)]
        for i in range(rows):
            word = _splat(builder, left(i, at))
            for j in range(columns):
                builder.store(dot(builder, builder.load(kept[i][j]), word, wide[j]), kept[i][j])
    return [[builder.load(place) for place in row] for row in kept]


@intrinsic(prefer_literal=True)
def score(typing, rows, groups, queries, dim, keys, scores):
    """``scores[TILE * i + 16 * j + t]`` becomes query i times key t of group j, unscaled.

    Args:
        queries: addresses of ``rows`` queries of ``dim`` bfloat16.
        keys: as ``pack_keys`` leaves them, a group behind the other.
    """
    n, m = rows.literal_value, groups.literal_value

    def build(context, builder, signature, args):
        _, _, queries, dim, keys, scores = args
        places = [builder.load(builder.gep(queries, [I64(i)])) for i in range(n)]
        size = builder.mul(dim, I64(LINE // 2))
        packed = [_plus(builder, keys, builder.mul(size, I64(j))) for j in range(m)]
        sums = _paired_products(
            builder, n, m, builder.lshr(dim, I64(1)),
            lambda i, at: _read(builder, _plus(builder, places[i], builder.mul(at, I64(4))), I32, align=2),
            lambda j, at: _read(builder, _plus(builder, packed[j], builder.mul(at, I64(LINE))), INTEGERS),
        )  # fmt: skip
        for i in range(n):
            for j in range(m):
                _write(builder, sums[i][j], _plus(builder, scores, 4 * TILE * i + LINE * j))
        return context.get_dummy_value()

    place = types.int64
    return types.none(rows, groups, INT64, place, place, place), build


def _power(builder, x):
    """2^x; of what is NaN NaN."""
    least = _all(LEAST)
    x = builder.select(builder.fcmp_ordered("<", x, least), least, x)
    shift = _all(SHIFT)
    whole = builder.fsub(builder.fadd(x, shift), shift)
    rest = builder.fsub(x, whole)
    result = _all(POWERS[0])
    for number in POWERS[1:]:
        result = _fused(builder, result, rest, _all(number))
    scaled = ir.InlineAsm(ir.FunctionType(WIDE, [WIDE, WIDE]), "vscalefps $2, $1, $0", "=v,v,v")
    return builder.call(scaled, [result, whole])


def _most(builder, vector):
    """The largest of a register, but for what is NaN behind it."""
    step = WORDS
    while step > 1:
        step //= 2
        other = _chosen(builder, vector, vector, [lane ^ step for lane in range(WORDS)])
        vector = builder.select(builder.fcmp_ordered(">", vector, other), vector, other)
    return builder.extract_element(vector, I32(0))


def _rounded(builder, low, high):
    """The nearest bfloat16 of two registers, ties to even, as one."""
    kind = ir.FunctionType(HALVES, [WIDE, WIDE])
    return builder.call(ir.InlineAsm(kind, "vcvtne2ps2bf16 $1, $2, $0", "=v,v,v"), [low, high])


@intrinsic
def weigh(typing, scores, first, last, scale, state, outputs, dim):
    """Scores of a query become weights of bfloat16 where they lie, against the new maximum; what was summed is brought
    to it.

    Args:
        scores: address of TILE float32; those from token ``first`` to ``last`` of the tile are seen, it may be none.
        scale: of a score, before the exponential.
        state: address of a maximum and 15 words of nothing, and 16 partial sums of weights.
        outputs: address of ``dim`` float32, the sum of weighted values.
    """

    def build(context, builder, signature, args):
        scores, first, last, scale, state, outputs, dim = args
        lanes = ir.Constant(INTEGERS, list(range(WORDS)))
        hidden = ir.Constant(WIDE, [float("-inf")] * WORDS)
        seen, most = [], hidden
        low, high = (_splat(builder, builder.trunc(edge, I32)) for edge in (first, last))
        for group in range(GROUPS):
            token = builder.add(lanes, _all(WORDS * group, kind=I32))
            inside = builder.and_(builder.icmp_signed(">=", token, low), builder.icmp_signed("<", token, high))
            value = builder.fmul(_read(builder, _plus(builder, scores, LINE * group), WIDE), _splat(builder, scale))
            seen.append(builder.select(inside, value, hidden))
            most = builder.select(builder.fcmp_ordered(">", seen[-1], most), seen[-1], most)
        known = _read(builder, state, F32)
        found = _most(builder, most)
        is_more = builder.fcmp_ordered(">", found, known)
        maximum = builder.select(is_more, found, known)
        nothing = ir.Constant(F32, float("-inf"))
        against = builder.select(builder.fcmp_ordered("==", maximum, nothing), F32(0), maximum)
        sums = _plus(builder, state, LINE)

        def relative(values):
            return builder.fmul(builder.fsub(values, _splat(builder, against)), _all(LOG2E))

        with builder.if_then(is_more):
            _write(builder, maximum, state)
            factor = _power(builder, relative(_splat(builder, known)))
            _write(builder, builder.fmul(_read(builder, sums, WIDE), factor), sums)
            with loop(builder, I64(0), builder.mul(dim, I64(4)), LINE) as (byte, _):
                place = _plus(builder, outputs, byte)
                _write(builder, builder.fmul(_read(builder, place, WIDE), factor), place)
        weights = [_power(builder, relative(values)) for values in seen]
        total = _read(builder, sums, WIDE)
        for values in weights:
            total = builder.fadd(total, values)
        _write(builder, total, sums)
        for i in range(0, GROUPS, 2):
            _write(builder, _rounded(builder, *weights[i : i + 2]), _plus(builder, scores, LINE // 2 * i))
        return context.get_dummy_value()

    place = types.int64
    return types.none(place, place, place, types.float32, place, place, place), build


@intrinsic(prefer_literal=True)
def mix(typing, rows, pairs, weights, values, dim, outputs):
    """``outputs[dim * i : dim * (i + 1)]`` grows by the values of ``pairs`` times two tokens, weighted for query i.

    Args:
        weights: address of what ``weigh`` leaves, 4 * TILE bytes a query.
        values: as ``pack_values`` leaves them.
        outputs: address of [rows, dim] float32, each 16 as ``pack_values`` orders dimensions.
    """
    n = rows.literal_value

    def build(context, builder, signature, args):
        _, pairs, weights, values, dim, outputs = args
        row = builder.mul(dim, I64(4))
        with loop(builder, I64(0), row, 2 * LINE) as (byte, _):
            sums = _paired_products(
                builder, n, 2, pairs,
                lambda i, at: _read(builder, _plus(builder, weights, 4 * TILE * i, builder.mul(at, I64(4))), I32),
                lambda j, at: _read(builder, _plus(builder, values, builder.mul(at, row), byte, LINE * j), INTEGERS),
            )  # fmt: skip
            for i in range(n):
                for j in range(2):
                    place = _plus(builder, outputs, builder.mul(row, I64(i)), byte, LINE * j)
                    _write(builder, builder.fadd(_read(builder, place, WIDE), sums[i][j]), place)
        return context.get_dummy_value()

    place = types.int64
    return types.none(rows, place, place, place, place, place), build


@intrinsic
def write_scaled(typing, sums, factor, dim, target):
    """``dim`` float32 at the address ``sums``, a multiple of 32, times ``factor``, as bfloat16 at ``target``."""

    def build(context, builder, signature, args):
        sums, factor, dim, target = args
        factor = _splat(builder, factor)
        with loop(builder, I64(0), builder.mul(dim, I64(2)), LINE) as (byte, _):
            place = _plus(builder, sums, byte, byte)
            low, high = (builder.fmul(_read(builder, _plus(builder, place, more), WIDE), factor) for more in (0, LINE))
            _write(builder, _rounded(builder, low, high), _plus(builder, target, byte), align=2)
        return context.get_dummy_value()

    return types.none(types.int64, types.float32, types.int64, types.int64), build
