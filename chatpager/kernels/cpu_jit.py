# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Decode on the CPU, compiled by numba: keys and values are read where they lie, once for all heads of a group.

All rows' tokens in a line are cut into equal parts, so that threads are busy alike whatever the rows' lengths; a row
that was cut is merged by the part that ends last. Importing this imports numba: seconds, not milliseconds.
"""

import numpy as np

from chatpager.kernels.cpu_decode import (
    CONTEXT,
    CONTEXTS,
    DIM,
    ENDED,
    GROUP,
    HEADS,
    KEY,
    KEYS,
    KV_HEADS,
    LSE,
    NEW_KEY,
    NEW_KEY_HEAD,
    NEW_KEY_TOKEN,
    NEW_VALUE,
    NEW_VALUE_HEAD,
    NEW_VALUE_TOKEN,
    NEXT,
    NEXT_TOKEN,
    OUT,
    OUT_HEAD,
    OUT_TOKEN,
    PAGE,
    PARTS,
    QUERY,
    ROOM,
    ROW_BYTES,
    ROWS,
    SCALE,
    SCRATCH,
    SLOTS,
    SLOTS_STEP,
    TO_BLOCK,
    TO_HEAD,
    TO_SLOT,
    TOKENS,
    VALUE,
    VALUES,
    WINDOW,
    WORDS,
    WRONG,
)
from chatpager.kernels.cpu_entry import as_c_calls_it, jit, pasted, place, put
from chatpager.kernels.cpu_tiles import NOTHING, OFFSETS, ONE, ZERO, attend, exp, load_query
from chatpager.kernels.cpu_vectors import (
    LANES,
    bfloat16_at,
    copy_bytes,
    float32_at,
    float_of_bits,
    int32_at,
    int64_at,
    next_of,
)


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
    return p[SCRATCH] + 4 * (part * p[WORDS] + OFFSETS + heads * (dim + LANES) + slot * heads * (dim + 2))


@jit
def finish(p, out, row, state):
    dim, heads = p[DIM], p[KV_HEADS] * p[GROUP]
    sums, lse = float32_at(state), float32_at(p[LSE])
    for head in range(heads):
        total = sums[heads + head]
        share = ONE / total
        at = row * p[OUT_TOKEN] + head * p[OUT_HEAD]
        for d in range(dim):
            put(out, at + d, sums[2 * heads + head * dim + place(out, d, dim)] * share)
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
                load_query(p, query, row, float32_at(mine + 4 * OFFSETS), float_of_bits(np.uint32(p[SCALE])))
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
    t = next_of(p, NEXT_TOKEN)
    while t < p[TOKENS]:
        slot = slots[t * p[SLOTS_STEP]]
        if slot >= 0:
            to = slot // p[PAGE] * p[TO_BLOCK] + slot % p[PAGE] * p[TO_SLOT]
            for head in range(heads):
                at = to + head * p[TO_HEAD]
                copy_bytes(p[KEYS] + at, p[NEW_KEY] + t * p[NEW_KEY_TOKEN] + head * p[NEW_KEY_HEAD], size)
                copy_bytes(p[VALUES] + at, p[NEW_VALUE] + t * p[NEW_VALUE_TOKEN] + head * p[NEW_VALUE_HEAD], size)
        t = next_of(p, NEXT_TOKEN)


def compiled(name):
    """A kernel as C calls it: ``name`` is float32, bfloat16 (decode) or store."""

    def float32(p):  # pragma: no cover
        work(p, float32_at(p[QUERY]), float32_at(p[KEY]), float32_at(p[VALUE]), float32_at(p[OUT]), 16)

    def bfloat16(p):  # pragma: no cover
        work(p, bfloat16_at(p[QUERY]), bfloat16_at(p[KEY]), bfloat16_at(p[VALUE]), bfloat16_at(p[OUT]), 32)

    def store(p):  # pragma: no cover
        put_tokens(p)

    return as_c_calls_it({"float32": float32, "bfloat16": bfloat16, "store": store}[name])
