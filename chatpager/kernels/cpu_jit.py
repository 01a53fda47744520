# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Decode on the CPU, compiled by numba: keys and values are read where they lie, once for all heads of a group.

Tokens come in tiles of 16: their scores are one vector a head, and an output is taken from memory and put back once a
tile. All rows' tokens in a line are cut into equal parts, so that threads are busy alike whatever the rows' lengths; a
row that was cut is merged by the part that ends last. Importing this imports numba: seconds, not milliseconds.
"""

import zlib
from pathlib import Path

import numba
import numpy as np
from numba import types

from chatpager.kernels import cpu_vectors
from chatpager.kernels.cpu_vectors import (
    INT64,
    LANES,
    bfloat16_at,
    bits_of_float,
    copy_bytes,
    dots,
    float32_at,
    float_of_bits,
    int32_at,
    int64_at,
    mix,
    next_of,
    power_of_two,
    prefetch,
)

# The places of a call's arguments in its table of int64: addresses, and strides in elements. `cpu_decode` fills it.
(
    QUERY, QUERY_TOKEN, QUERY_HEAD, KEY, VALUE, BLOCK, SLOT, HEAD, TABLES, TABLE_ROW, TABLE_COLUMN, CONTEXTS, CONTEXT,
    OUT, OUT_TOKEN, OUT_HEAD, LSE, ROWS, KV_HEADS, GROUP, DIM, BLOCK_SIZE, WINDOW, PARTS, SCRATCH, WORDS, SCALE,
    SOFTCAP, NEXT, ENDED,
) = range(30)  # fmt: skip

STATES = 4 * LANES + 4 * LANES
"""Words before the queries: offsets of two tiles, scores of four heads; `cpu_decode.part_words` counts all."""

jit = numba.njit(fastmath={"contract"}, error_model="numpy")
pasted = numba.njit(inline="always")
"""Part of its caller: LLVM works on a function once more for every one that it is called through."""

f32 = np.float32
LOG2E, LN2_HIGH, LN2_LOW = f32(1.4426950408889634), f32(0.693359375), f32(-2.12194440e-4)
SHIFT = f32(12582912.0)
LEAST, MOST = f32(-87.0), f32(88.0)
C0, C1, C2, C3, C4, C5 = map(
    f32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
ZERO, ONE, TWO = f32(0), f32(1), f32(2)
NOTHING = f32(-np.inf)


@jit
def exp(x):
    """As Cephes' expf, to 2e-7; below -87 it is 0, above 88 no more than there, and NaN stays NaN."""
    y = LEAST if x < LEAST else x
    y = MOST if y > MOST else y
    shifted = y * LOG2E + SHIFT
    n = shifted - SHIFT
    r = y - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = (((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5) * (r * r) + r + ONE
    p = p * power_of_two(shifted)
    return ZERO if x < LEAST else p


@jit
def first_seen(context, window):
    return max(0, context - window) if window else 0


@jit
def total_of(p):
    contexts, total = int32_at(p[CONTEXTS]), 0
    for row in range(p[ROWS]):
        n = np.int64(contexts[row * p[CONTEXT]])
        total += n - first_seen(n, p[WINDOW])
    return total


@jit
def piece(part, parts, total, before, tokens):
    """The tokens (from, to) of a row that are a part's, counted from the row's first; cuts are between tiles."""
    low = part * total // parts - before
    high = (part + 1) * total // parts - before
    low = 0 if low <= 0 else tokens if low >= tokens else low // LANES * LANES
    high = 0 if high <= 0 else tokens if high >= tokens else high // LANES * LANES
    return low, high


@jit
def state_of(p, part, slot):
    """Address of [heads] maxima, [heads] sums and [heads, dim] outputs; slot 0: a whole row, 1: one that began in an
    earlier part, 2: one that goes on in a later part."""
    heads, dim = p[KV_HEADS] * p[GROUP], p[DIM]
    return p[SCRATCH] + 4 * (part * p[WORDS] + STATES + heads * dim + slot * heads * (dim + 2))


@jit
def load_query(p, source, row, queries, scale):
    dim = p[DIM]
    for head in range(p[KV_HEADS] * p[GROUP]):
        at = row * p[QUERY_TOKEN] + head * p[QUERY_HEAD]
        for d in range(dim):
            queries[head * dim + d] = widen(source[at + d]) * scale


def widen(x):
    raise NotImplementedError


@numba.extending.overload(widen)
def _widen(x):
    if x == types.float32:
        return lambda x: x
    return lambda x: float_of_bits(np.uint32(x) << np.uint32(16))


def put(base, index, x):
    raise NotImplementedError


@numba.extending.overload(put)
def _put(base, index, x):
    if base.dtype == types.float32:

        def store(base, index, x):
            base[index] = x
    else:

        def store(base, index, x):
            bits = bits_of_float(x)
            if x != x:
                base[index] = np.uint16(0x7FC0)
            else:  # to the nearest, ties to even
                base[index] = np.uint16(
                    (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
                )

    return store


@jit
def soften(scores, count, softcap):
    """Scores of one head, of which ``count`` are there, under a softcap; the rest become -inf."""
    if softcap != ZERO:
        for t in range(LANES):
            scores[t] = softcap * (ONE - TWO / (exp(TWO * (scores[t] / softcap)) + ONE))
    for t in range(count, LANES):
        scores[t] = NOTHING


@jit
def weigh(scores, maximum, total, sums, dim):
    """Scores become weights against the new maximum; what was summed is brought to it."""
    most = maximum[0]
    for t in range(LANES):
        most = scores[t] if scores[t] > most else most
    against = ZERO if most == NOTHING else most
    if most > maximum[0]:
        factor = exp(maximum[0] - against)
        maximum[0] = most
        total[0] *= factor
        for d in range(dim):
            sums[d] *= factor
    for t in range(LANES):
        scores[t] = exp(scores[t] - against)
    for t in range(LANES):
        total[0] += scores[t]


@jit
def fill(p, row, first, count, base, offsets):
    """Where ``count`` tokens of a row lie from token ``first`` on, in elements of the caches."""
    tables, size = int32_at(p[TABLES]), p[BLOCK_SIZE]
    at = row * p[TABLE_ROW]
    for t in range(count):
        block = np.int64(tables[at + (first + t) // size * p[TABLE_COLUMN]])
        offsets[t] = block * p[BLOCK] + (first + t) % size * p[SLOT]


@jit
def score(keys, base, offsets, count, queries, heads, dim, scores):
    for t in range(count):
        key, to = offsets[t] + base, float32_at(scores + 4 * t)
        if heads == 4:
            dots(4, keys, key, queries, dim, to)
        elif heads == 3:
            dots(3, keys, key, queries, dim, to)
        elif heads == 2:
            dots(2, keys, key, queries, dim, to)
        else:
            dots(1, keys, key, queries, dim, to)


@jit
def gather(values, base, offsets, count, scores, heads, dim, sums):
    if heads == 4:
        mix(4, values, base, offsets, count, scores, dim, sums)
    elif heads == 3:
        mix(3, values, base, offsets, count, scores, dim, sums)
    elif heads == 2:
        mix(2, values, base, offsets, count, scores, dim, sums)
    else:
        mix(1, values, base, offsets, count, scores, dim, sums)


@pasted
def attend(p, keys, values, lines, row, start, stop, part, state):
    """Tokens ``start`` to ``stop`` of a row into ``state``."""
    dim, group, kv_heads = p[DIM], p[GROUP], p[KV_HEADS]
    heads, softcap = kv_heads * group, float_of_bits(np.uint32(p[SOFTCAP]))
    mine = p[SCRATCH] + 4 * part * p[WORDS]
    here, there, scores, queries = int64_at(mine), int64_at(mine + 8 * LANES), mine + 16 * LANES, mine + 4 * STATES
    sums = float32_at(state)
    for i in range(heads * (dim + 2)):
        sums[i] = NOTHING if i < heads else ZERO
    fill(p, row, start, min(LANES, stop - start), 0, there)
    for first in range(start, stop, LANES):
        count = min(LANES, stop - first)
        later = max(0, min(LANES, stop - first - LANES))
        for t in range(count):
            here[t] = there[t]
        fill(p, row, first + LANES, later, 0, there)
        for kv_head in range(kv_heads):
            base = kv_head * p[HEAD]
            for t in range(later):
                for d in range(0, dim, lines):
                    prefetch(keys, there[t] + base + d)
                    prefetch(values, there[t] + base + d)
            for g in range(0, group, 4):
                n, head = min(4, group - g), kv_head * group + g
                score(keys, base, here, count, float32_at(queries + 4 * head * dim), n, dim, scores)
                for j in range(n):
                    mixed = float32_at(state + 4 * (2 * heads + (head + j) * dim))
                    tile = float32_at(scores + 4 * LANES * j)
                    soften(tile, count, softcap)
                    weigh(
                        tile, float32_at(state + 4 * (head + j)), float32_at(state + 4 * (heads + head + j)), mixed, dim
                    )
                mixed = float32_at(state + 4 * (2 * heads + head * dim))
                gather(values, base, here, count, float32_at(scores), n, dim, mixed)


@jit
def finish(p, out, row, state):
    dim, heads = p[DIM], p[KV_HEADS] * p[GROUP]
    sums, lse = float32_at(state), float32_at(p[LSE])
    for head in range(heads):
        total = sums[heads + head]
        share = ONE / total
        at = row * p[OUT_TOKEN] + head * p[OUT_HEAD]
        for d in range(dim):
            put(out, at + d, sums[2 * heads + head * dim + d] * share)
        lse[row * heads + head] = sums[head] + np.log(total)


@jit
def merge(p, into, other):
    """Two states of one row become one, in ``into``."""
    dim, heads = p[DIM], p[KV_HEADS] * p[GROUP]
    a, b = float32_at(into), float32_at(other)
    for head in range(heads):
        most = b[head] if b[head] > a[head] else a[head]
        against = ZERO if most == NOTHING else most
        one, two = exp(a[head] - against), exp(b[head] - against)
        a[head] = most
        a[heads + head] = a[heads + head] * one + b[heads + head] * two
        at = 2 * heads + head * dim
        for d in range(dim):
            a[at + d] = a[at + d] * one + b[at + d] * two


@pasted
def work(p, query, keys, values, out, lines):
    """Take parts until there are none; whoever ends the last one merges what was cut."""
    contexts, parts, total, rows = int32_at(p[CONTEXTS]), p[PARTS], total_of(p), p[ROWS]
    part = next_of(p, NEXT)
    while part < parts:
        before = 0
        for row in range(rows):
            context = np.int64(contexts[row * p[CONTEXT]])
            start = first_seen(context, p[WINDOW])
            tokens = context - start
            low, high = piece(part, parts, total, before, tokens)
            before += tokens
            if low < high:
                mine = p[SCRATCH] + 4 * part * p[WORDS]
                load_query(p, query, row, float32_at(mine + 4 * STATES), float_of_bits(np.uint32(p[SCALE])))
                slot = 1 if low > 0 else 0 if high == tokens else 2
                state = state_of(p, part, slot)
                attend(p, keys, values, lines, row, start + low, start + high, part, state)
                if slot == 0:
                    finish(p, out, row, state)
        if next_of(p, ENDED) == parts - 1 and parts > 1:
            merge_cut(p, out, total)
        part = next_of(p, NEXT)


@jit
def merge_cut(p, out, total):
    contexts, parts, before = int32_at(p[CONTEXTS]), p[PARTS], 0
    for row in range(p[ROWS]):
        context = np.int64(contexts[row * p[CONTEXT]])
        tokens = context - first_seen(context, p[WINDOW])
        into = np.int64(0)
        for part in range(parts if tokens else 0):
            low, high = piece(part, parts, total, before, tokens)
            if low == 0 and high == tokens:
                break
            if low < high:
                state = state_of(p, part, 1 if low > 0 else 2)
                if into:
                    merge(p, into, state)
                else:
                    into = state
        if into:
            finish(p, out, row, into)
        before += tokens


# The places of a store's arguments; strides and the size of a head's row are in bytes.
(
    NEW_KEY, NEW_KEY_TOKEN, NEW_KEY_HEAD, NEW_VALUE, NEW_VALUE_TOKEN, NEW_VALUE_HEAD, KEYS, VALUES, TO_BLOCK, TO_SLOT,
    TO_HEAD, SLOTS, SLOTS_STEP, TOKENS, HEADS, ROW_BYTES, PAGE, ROOM, WRONG,
) = range(19)  # fmt: skip


@jit
def put_tokens(p):
    """Copy rows of heads into their slots; a slot past the room is told, and nothing copied."""
    slots = int64_at(p[SLOTS])
    for t in range(p[TOKENS]):
        slot = slots[t * p[SLOTS_STEP]]
        if slot >= p[ROOM]:
            p[WRONG] = slot
            return
    size, heads = p[ROW_BYTES], p[HEADS]
    if p[NEW_KEY_HEAD] == size and p[NEW_VALUE_HEAD] == size and p[TO_HEAD] == size:
        size, heads = size * heads, 1  # the heads of a token are one row
    for t in range(p[TOKENS]):
        slot = slots[t * p[SLOTS_STEP]]
        if slot >= 0:
            to = slot // p[PAGE] * p[TO_BLOCK] + slot % p[PAGE] * p[TO_SLOT]
            for head in range(heads):
                at = to + head * p[TO_HEAD]
                copy_bytes(p[KEYS] + at, p[NEW_KEY] + t * p[NEW_KEY_TOKEN] + head * p[NEW_KEY_HEAD], size)
                copy_bytes(p[VALUES] + at, p[NEW_VALUE] + t * p[NEW_VALUE_TOKEN] + head * p[NEW_VALUE_HEAD], size)


def compiled(name):
    """A kernel as C calls it, of the address of its table: compiled, or loaded from numba's cache on disk.

    ``name`` is float32, bfloat16 (decode) or store. numba keeps what it compiled until the file of the function itself
    changes; ``sources`` is part of its name there, so that the other file counts too.
    """
    sources = zlib.crc32(b"".join(Path(file).read_bytes() for file in (__file__, cpu_vectors.__file__)))

    def float32(p):  # pragma: no cover
        work(p, float32_at(p[QUERY]), float32_at(p[KEY]), float32_at(p[VALUE]), float32_at(p[OUT]), 16)
        return sources

    def bfloat16(p):  # pragma: no cover
        work(p, bfloat16_at(p[QUERY]), bfloat16_at(p[KEY]), bfloat16_at(p[VALUE]), bfloat16_at(p[OUT]), 32)
        return sources

    def store(p):  # pragma: no cover
        put_tokens(p)
        return sources

    entry = {"float32": float32, "bfloat16": bfloat16, "store": store}[name]
    try:
        return numba.cfunc(types.int64(INT64), cache=_cacheable())(entry)
    except OSError:  # the folder is full, or was taken away
        return numba.cfunc(types.int64(INT64))(entry)


def _cacheable():
    """numba refuses to define a function where no folder can be written that would keep it."""
    try:
        numba.njit(cache=True)(lambda: None)
    except RuntimeError:
        return False
    return True
