# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Prompts, and decode, by the processor's products of bfloat16, compiled by numba (see ``cpu_dot_tiles``).

Some queries of one KV head meet the tokens of their row in tiles, which are packed once for all of them.
"""

import numpy as np

from chatpager.kernels.cpu_decode import (
    BLOCK,
    BLOCK_SIZE,
    BLOCKS,
    CONTEXT,
    CONTEXTS,
    DIM,
    ENDED,
    GROUP,
    HEAD,
    KEY,
    KV_HEADS,
    LSE,
    NEXT,
    OUT,
    OUT_HEAD,
    OUT_TOKEN,
    PARTS,
    QUERY,
    QUERY_HEAD,
    QUERY_TOKEN,
    ROWS,
    SCALE,
    SCRATCH,
    SLOT,
    STATE_WORDS,
    TABLE_COLUMN,
    TABLE_ROW,
    TABLES,
    TILE,
    VALUE,
    WINDOW,
    WORDS,
    WRONG_BLOCK,
)
from chatpager.kernels.cpu_dot_tiles import mix, pack_keys, pack_values, score, weigh, write_scaled
from chatpager.kernels.cpu_dots import require_dots
from chatpager.kernels.cpu_entry import as_c_calls_it, jit, pasted
from chatpager.kernels.cpu_extend import PART, QUERIES, SEQUENCES, STARTS, STARTS_STEP
from chatpager.kernels.cpu_jit import finish, first_seen, merge_cut, piece, state_of, total_of
from chatpager.kernels.cpu_tiles import NOTHING, ONE, ZERO
from chatpager.kernels.cpu_vectors import LANES, bfloat16_at, float32_at, float_of_bits, int32_at, int64_at, next_of


@jit
def fill(p, row, kv_head, first, before, count, padded, keys, values, zeros):
    """Addresses of the keys and values of a row's tokens ``before`` to ``count``, counted from token ``first``, and of
    zeros before them and behind, up to ``padded``. An entry that is no block is told, and block 0 read in its place."""
    tables, size, step = int32_at(p[TABLES]), p[BLOCK_SIZE], 2 * p[SLOT]
    entry = row * p[TABLE_ROW] + (first + before) // size * p[TABLE_COLUMN]
    slot, at = (first + before) % size, np.int64(-1)
    for t in range(before):
        keys[t], values[t] = zeros, zeros
    for t in range(before, count):
        if at < 0:
            block = np.int64(tables[entry])
            if block < 0 or block >= p[BLOCKS]:
                p[WRONG_BLOCK] = block
                block = np.int64(0)
            at = 2 * (block * p[BLOCK] + kv_head * p[HEAD]) + slot * step
        keys[t], values[t] = p[KEY] + at, p[VALUE] + at
        at, slot = at + step, slot + 1
        if slot == size:
            slot, at, entry = np.int64(0), np.int64(-1), entry + p[TABLE_COLUMN]
    for t in range(count, padded):
        keys[t], values[t] = zeros, zeros


@jit
def score_block(n, groups, queries, dim, keys, scores):
    """Four queries at most with as many groups of 16 tokens, two at a time."""
    for group in range(0, groups, 2):
        packed, to = keys + 2 * LANES * dim * group, scores + 4 * LANES * group
        if n == 4:
            score(4, 2, queries, dim, packed, to)
        elif n == 3:
            score(3, 2, queries, dim, packed, to)
        elif n == 2:
            score(2, 2, queries, dim, packed, to)
        else:
            score(1, 2, queries, dim, packed, to)


@jit
def mix_block(n, pairs, weights, values, dim, outputs):
    if n == 4:
        mix(4, pairs, weights, values, dim, outputs)
    elif n == 3:
        mix(3, pairs, weights, values, dim, outputs)
    elif n == 2:
        mix(2, pairs, weights, values, dim, outputs)
    else:
        mix(1, pairs, weights, values, dim, outputs)


@jit
def seen_of(position, first, count, window):
    """Which of ``count`` tokens from token ``first`` on the query at ``position`` sees: (from, to)."""
    low = position + 1 - window - first if window else np.int64(0)
    return max(np.int64(0), low), min(count, position + 1 - first)


@jit
def begin(mine, dim, count, states, outputs):
    """A row of zeros, and what ``weigh`` and ``mix`` keep of ``count`` queries, before any token."""
    zeros, begun, sums = float32_at(zeros_of(mine, count)), float32_at(states), float32_at(outputs)
    for d in range(dim // 2):
        zeros[d] = ZERO
    for i in range(count * STATE_WORDS):
        begun[i] = NOTHING if i % STATE_WORDS == 0 else ZERO
    for i in range(count * dim):
        sums[i] = ZERO


@jit
def zeros_of(mine, count):
    """Address of a row of zeros in scratch that is for ``count`` queries: behind addresses of keys and values, of those
    that are asked for, and of the queries."""
    return mine + 8 * (4 * TILE + (count + 7) // 8 * 8)


@jit
def states_of(mine, count, dim):
    """Address of the states of ``count`` queries in scratch, as `cpu_decode.dot_words` counts."""
    return zeros_of(mine, count) + 4 * (dim // 2 + TILE * dim + 4 * TILE)


@pasted
def meet(p, mine, packed, later, position, queries, count, first, before, seen, states, outputs, spread):
    """Queries of one KV head meet a tile, whose addresses lie in scratch.

    Args:
        packed: address of room for packed keys and values and for scores.
        later: address of the addresses of the keys and values that are asked for meanwhile.
        position: of the token whose queries are the first ones.
        queries: address of the addresses of ``count`` queries.
        first, before, seen: the tile's first token; those from ``before`` to ``seen`` are there.
        states, outputs: addresses of what ``weigh`` and ``mix`` keep.
    """
    dim, group, window, scale = p[DIM], p[GROUP], p[WINDOW], float_of_bits(np.uint32(p[SCALE]))
    packed_values = packed + 2 * TILE * dim
    scores = packed_values + 2 * TILE * dim
    groups, pairs = 2 if seen <= TILE // 2 else 4, (seen + 1) // 2
    for g in range(groups):
        at = 8 * LANES * g
        pack_keys(int64_at(mine + at), int64_at(later + at), dim, packed + 2 * LANES * dim * g)
    pack_values(int64_at(mine + 8 * TILE), int64_at(later + 8 * TILE), pairs, dim, packed_values, spread)
    for q in range(0, count, 4):
        n = min(4, count - q)
        if seen_of(position + (q + n - 1) // group, first, seen, window)[1] <= 0:
            continue
        score_block(n, groups, int64_at(queries + 8 * q), dim, packed, scores)
        for i in range(n):
            low, high = seen_of(position + (q + i) // group, first, seen, window)
            state, sums = states + 4 * STATE_WORDS * (q + i), outputs + 4 * dim * (q + i)
            weigh(scores + 4 * TILE * i, max(before, low), high, scale, state, sums, dim)
        mix_block(n, pairs, scores, packed_values, dim, outputs + 4 * dim * q)


@jit
def attend(p, row, kv_head, position, count, start, stop, mine, states, outputs):
    """``count`` queries of one KV head, the first at ``position``, meet tokens ``start`` to ``stop`` of their row.

    Tiles begin at multiples of their size, so that a query's sums are the same ones wherever under a window its
    neighbours begin to see.
    """
    dim, zeros = p[DIM], zeros_of(mine, count)
    queries = mine + 32 * TILE
    begin(mine, dim, count, states, outputs)
    for first in range(start // TILE * TILE, stop, TILE):
        before, seen = max(np.int64(0), start - first), min(TILE, stop - first)
        fill(p, row, kv_head, first, before, seen, TILE, int64_at(mine), int64_at(mine + 8 * TILE), zeros)
        meet(
            p, mine, zeros + 2 * dim, mine, position, queries, count, first, before, seen, states, outputs, 0
        )  # fmt: skip


@jit
def sum_of(states, i):
    total = ZERO
    state = float32_at(states + 4 * STATE_WORDS * i)
    for lane in range(LANES):
        total += state[LANES + lane]
    return total


@jit
def go_on(keys, values, start, stop, step):
    """To the next KV head."""
    for t in range(start, stop):
        keys[t] += step
        values[t] += step


@jit
def after(p, row, first, stop):
    """The tile behind the one at ``first``, as (row, first token, and between which of its tokens it is seen): of the
    next row where a row ends."""
    if first + TILE < stop or row + 1 == p[ROWS]:
        return row, first + TILE, np.int64(0), max(np.int64(0), min(TILE, stop - first - TILE))
    context = np.int64(int32_at(p[CONTEXTS])[(row + 1) * p[CONTEXT]])
    seen = np.int64(first_seen(context, p[WINDOW]))
    start = seen // TILE * TILE
    return row + 1, start, seen - start, min(TILE, context - start)


@jit
def decode_row(p, row, start, stop, part, state):
    """What ``cpu_tiles.attend`` does: all heads tile by tile, as tokens lie in memory."""
    dim, group, kv_heads = p[DIM], p[GROUP], p[KV_HEADS]
    heads, sums = kv_heads * group, float32_at(state)
    mine = (state_of(p, part, 3) + 63) // 64 * 64
    later, zeros, states = mine + 16 * TILE, zeros_of(mine, heads), states_of(mine, heads, dim)
    keys, values, next_keys, next_values = (
        int64_at(mine), int64_at(mine + 8 * TILE), int64_at(later), int64_at(later + 8 * TILE)
    )  # fmt: skip
    queries = int64_at(mine + 32 * TILE)
    for head in range(heads):
        queries[head] = p[QUERY] + 2 * (row * p[QUERY_TOKEN] + head * p[QUERY_HEAD])
    outputs = state + 8 * heads
    begin(mine, dim, heads, states, outputs)
    for first in range(start // TILE * TILE, stop, TILE):
        before, seen = max(np.int64(0), start - first), min(TILE, stop - first)
        fill(p, row, 0, first, before, seen, TILE, keys, values, zeros)
        next_row, next_first, hidden, coming = after(p, row, first, stop)
        fill(p, next_row, 0, next_first, hidden, coming, TILE, next_keys, next_values, zeros)
        for kv_head in range(kv_heads):
            head = kv_head * group
            meet(
                p, mine, zeros + 2 * dim, later, stop - 1, mine + 32 * TILE + 8 * head, group, first, before, seen,
                states + 4 * STATE_WORDS * head, outputs + 4 * dim * head, 1,
            )  # fmt: skip
            go_on(keys, values, before, seen, 2 * p[HEAD])
            go_on(next_keys, next_values, hidden, coming, 2 * p[HEAD])
    for head in range(heads):
        sums[head] = float32_at(states + 4 * STATE_WORDS * head)[0]
        sums[heads + head] = sum_of(states, head)


@jit
def decode_all(p):
    """As ``cpu_jit.work``."""
    contexts, parts, total, rows = int32_at(p[CONTEXTS]), p[PARTS], total_of(p), p[ROWS]
    out = bfloat16_at(p[OUT])
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
                slot = 1 if low > 0 else 0 if high == tokens else 2
                state = state_of(p, part, slot)
                decode_row(p, row, start + low, start + high, part, state)
                if slot == 0:
                    finish(p, out, row, state)
        if next_of(p, ENDED) == parts - 1 and parts > 1:
            merge_cut(p, out, total)
        part = next_of(p, NEXT)


@jit
def blocks_of(p, row, most):
    """How many times ``most`` queries a row has."""
    starts, step = int32_at(p[STARTS]), p[STARTS_STEP]
    return (np.int64(starts[(row + 1) * step]) - np.int64(starts[row * step]) + most - 1) // most


@jit
def extend_block(p, row, kv_head, first, most, part):
    """New tokens of a row from its ``first`` one on, ``most`` at the most."""
    dim, group, window = p[DIM], p[GROUP], p[WINDOW]
    starts, lse = int32_at(p[STARTS]), float32_at(p[LSE])
    begin, end = np.int64(starts[row * p[STARTS_STEP]]), np.int64(starts[(row + 1) * p[STARTS_STEP]])
    tokens, position = min(most, end - begin - first), int32_at(p[CONTEXTS])[row * p[CONTEXT]] - (end - begin) + first
    start = max(np.int64(0), position + 1 - window) if window else np.int64(0)
    count, heads, head = tokens * group, p[KV_HEADS] * group, kv_head * group
    mine = p[SCRATCH] + 4 * part * p[WORDS]
    queries, states = int64_at(mine + 32 * TILE), states_of(mine, count, dim)
    outputs = states + 4 * STATE_WORDS * count
    for t in range(tokens):
        for g in range(group):
            at = (begin + first + t) * p[QUERY_TOKEN] + (head + g) * p[QUERY_HEAD]
            queries[t * group + g] = p[QUERY] + 2 * at
    attend(p, row, kv_head, position, count, start, position + tokens, mine, states, outputs)
    for q in range(count):
        token, to = begin + first + q // group, head + q % group
        total = sum_of(states, q)
        write_scaled(outputs + 4 * dim * q, ONE / total, dim, p[OUT] + 2 * (token * p[OUT_TOKEN] + to * p[OUT_HEAD]))
        lse[token * heads + to] = float32_at(states + 4 * STATE_WORDS * q)[0] + np.log(total)


@jit
def extend_all(p):
    """Take a KV head and some tokens of a row, until there are none; the last tokens of a row first, as they see the
    most."""
    most, kv_heads, units, part = max(1, QUERIES // p[GROUP]), p[KV_HEADS], np.int64(0), next_of(p, PART)
    for row in range(p[SEQUENCES]):
        units += blocks_of(p, row, most) * kv_heads
    unit = next_of(p, NEXT)
    while unit < units:
        row, left = 0, unit
        while left >= blocks_of(p, row, most) * kv_heads:
            left, row = left - blocks_of(p, row, most) * kv_heads, row + 1
        blocks = blocks_of(p, row, most)
        extend_block(p, row, left // blocks, (blocks - 1 - left % blocks) * most, most, part)
        unit = next_of(p, NEXT)


def compiled(name):
    """``decode`` or ``extend`` as C calls it.

    Raises:
        RuntimeError: numba compiles for a processor without the instruction.
    """
    require_dots()

    def decode(p):  # pragma: no cover
        decode_all(p)

    def extend(p):  # pragma: no cover
        extend_all(p)

    return as_c_calls_it({"decode": decode, "extend": extend}[name])
