# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Tokens of a row into its state, compiled by numba: in tiles of 16, keys and values read where they lie.

The scores of a tile are one vector a head, computed token by token, as keys lie in memory, and an output is taken from
memory and put back once a tile. Values are asked for while keys are read, and the next keys while values are. A state
is the maxima and sums of a row's heads and their outputs, not yet divided; of bfloat16 in the order of ``place``.
"""

import numpy as np

from chatpager.kernels.cpu_decode import (
    BLOCK,
    BLOCK_SIZE,
    BLOCKS,
    DIM,
    GROUP,
    HEAD,
    KV_HEADS,
    QUERY_HEAD,
    QUERY_TOKEN,
    SCRATCH,
    SLOT,
    SOFTCAP,
    TABLE_COLUMN,
    TABLE_ROW,
    TABLES,
    WORDS,
    WRONG_BLOCK,
)
from chatpager.kernels.cpu_entry import jit, pasted, place, widen
from chatpager.kernels.cpu_vectors import (
    LANES,
    dots,
    float32_at,
    float_of_bits,
    int32_at,
    int64_at,
    mix,
    power_of_two,
    prefetch,
)

OFFSETS = 4 * LANES
"""Words of the offsets of two tiles, before a part's queries, scores and states; `cpu_decode.part_words` counts all."""

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
def load_query(p, source, row, queries, scale):
    dim = p[DIM]
    for head in range(p[KV_HEADS] * p[GROUP]):
        at = row * p[QUERY_TOKEN] + head * p[QUERY_HEAD]
        for d in range(dim):
            queries[head * dim + place(source, d, dim)] = widen(source[at + d]) * scale


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
def fill(p, row, first, count, offsets):
    """Where ``count`` tokens of a row lie from token ``first`` on, in elements of the caches. An entry that is no block
    is told, and block 0 read in its place."""
    tables, size = int32_at(p[TABLES]), p[BLOCK_SIZE]
    at = row * p[TABLE_ROW]
    for t in range(count):
        block = np.int64(tables[at + (first + t) // size * p[TABLE_COLUMN]])
        if block < 0 or block >= p[BLOCKS]:
            p[WRONG_BLOCK] = block
            block = np.int64(0)
        offsets[t] = block * p[BLOCK] + (first + t) % size * p[SLOT]


@jit
def score(keys, key, queries, heads, dim, scores):
    """One token's key with four queries at most; what a head gets lies LANES apart."""
    if heads == 4:
        dots(4, keys, key, queries, dim, scores)
    elif heads == 3:
        dots(3, keys, key, queries, dim, scores)
    elif heads == 2:
        dots(2, keys, key, queries, dim, scores)
    else:
        dots(1, keys, key, queries, dim, scores)


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


@jit
def score_tile(p, keys, values, lines, offsets, count, queries, scores):
    """Scores of all heads with the tile's tokens, token by token: keys lie so. Values are asked for meanwhile."""
    dim, group, kv_heads = p[DIM], p[GROUP], p[KV_HEADS]
    for t in range(count):
        for kv_head in range(kv_heads):
            at = offsets[t] + kv_head * p[HEAD]
            for d in range(0, dim, lines):
                prefetch(values, at + d)
            for g in range(0, group, 4):
                head = kv_head * group + g
                query, to = float32_at(queries + 4 * head * dim), float32_at(scores + 4 * (LANES * head + t))
                score(keys, at, query, min(4, group - g), dim, to)


@jit
def ask(p, keys, lines, offsets, start, stop):
    """Ask for the keys of these tokens of the next tile."""
    for t in range(start, stop):
        for kv_head in range(p[KV_HEADS]):
            for d in range(0, p[DIM], lines):
                prefetch(keys, offsets[t] + kv_head * p[HEAD] + d)


@pasted
def attend(p, keys, values, lines, row, start, stop, part, state):
    """Tokens ``start`` to ``stop`` of a row into ``state``."""
    dim, group, kv_heads = p[DIM], p[GROUP], p[KV_HEADS]
    heads, softcap = kv_heads * group, float_of_bits(np.uint32(p[SOFTCAP]))
    mine = p[SCRATCH] + 4 * part * p[WORDS]
    here, there, queries = int64_at(mine), int64_at(mine + 8 * LANES), mine + 4 * OFFSETS
    scores = queries + 4 * heads * dim
    sums = float32_at(state)
    for i in range(heads * (dim + 2)):
        sums[i] = NOTHING if i < heads else ZERO
    fill(p, row, start, min(LANES, stop - start), there)
    for first in range(start, stop, LANES):
        count = min(LANES, stop - first)
        later = max(0, min(LANES, stop - first - LANES))
        for t in range(count):
            here[t] = there[t]
        fill(p, row, first + LANES, later, there)
        score_tile(p, keys, values, lines, here, count, queries, scores)
        for head in range(heads):
            tile, mixed = float32_at(scores + 4 * LANES * head), float32_at(state + 4 * (2 * heads + head * dim))
            soften(tile, count, softcap)
            weigh(tile, float32_at(state + 4 * head), float32_at(state + 4 * (heads + head)), mixed, dim)
        for kv_head in range(kv_heads):
            ask(p, keys, lines, there, kv_head * later // kv_heads, (kv_head + 1) * later // kv_heads)
            for g in range(0, group, 4):
                head = kv_head * group + g
                mixed = float32_at(state + 4 * (2 * heads + head * dim))
                weights = float32_at(scores + 4 * LANES * head)
                gather(values, kv_head * p[HEAD], here, count, weights, min(4, group - g), dim, mixed)
