# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Where top-k and top-p cut a row, found by several programs a row: for few rows of a large vocabulary.

As in ``row_cut`` an interval of keys is narrowed until one is left. Each round asks for the tokens above ``PIVOTS``
keys at once: every program looks at its own block of the row, and the next round's programs begin by adding up what all
of them found. All sums are of whole numbers, so the tokens that are kept are exactly ``row_cut``'s.

What is known of a row before a round, ``STATE`` int64:

====================  =================================================================================
phase                 0 looks for top-k's cut, 1 for top-p's, 2 is done
low, high             the cut is above ``low`` and at most ``high``
above_low, above_high tokens with a larger key
mass_high             the mass of those above ``high``
kept                  of the tokens at the cut, how many are kept; -1: all
wanted                the mass that top-p wants, a double's bits
====================  =================================================================================
"""

import triton
import triton.language as tl

from chatpager.kernels.row_cut import as_key, largest, last_of, mass_of, reaching, scaled, weight_of

PIVOTS = 16
"""Four bits of the 32 of a key in each round."""
ROUNDS = 16
"""Eight for each cut; where there is no top-k, one for it."""
CHUNK = 256
"""Tokens that are compared to all pivots together."""
STATE = 8
RULES = "p_temperature", "p_top_k", "p_top_p", "p_log_min_p"
"""Arguments that may lie anywhere, as rows of one tensor do: a kernel that counted on more would be compiled again."""


@triton.jit
def pivots_of(low, high, PIVOTS: tl.constexpr):
    """From ``low`` on; no two are apart by more than a ``PIVOTS``-th, and where there is only ``high`` it is one."""
    return low + ((high - low) * tl.arange(0, PIVOTS) + PIVOTS - 1) // PIVOTS


@triton.jit
def at(b_x, i, PIVOTS: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, PIVOTS) == i, b_x, 0), 0)


@triton.jit
def advance(
    phase, low, high, above_low, above_high, mass_high, kept, wanted, b_count, b_mass, top_k, top_p, peak,
    PIVOTS: tl.constexpr,
):  # fmt: skip
    """What is known after a round in which so many tokens, and so much mass, were found above each pivot."""
    b_pivot = pivots_of(low, high, PIVOTS)
    target = tl.where(top_k > 0, top_k, 0x7FFFFFFF)
    b_is_low = tl.where(phase == 0, b_count >= target, b_mass.to(tl.float64) >= wanted)
    found = tl.maximum(tl.sum(b_is_low.to(tl.int32), 0), 1)
    low = at(b_pivot, found - 1, PIVOTS)
    above_low = at(b_count, found - 1, PIVOTS)
    if found < PIVOTS:
        high = at(b_pivot, found, PIVOTS)
        above_high = at(b_count, found, PIVOTS)
        mass_high = at(b_mass, found, PIVOTS)
    if (phase == 1) & (above_low - above_high == 1):  # wherever the one between them lies
        high = low + 1
    if high - low <= 1:
        cut = high.to(tl.int32)
        if phase == 0:
            count = above_low - above_high
            if (top_k > 0) & (above_low > top_k):
                count = top_k - above_high
                kept = count
            phase = tl.full((), 2, tl.int64)
            if top_p < 1.0:
                wanted = (mass_high + weight_of(cut, peak) * count).to(tl.float64) * top_p
                kept = reaching(wanted, mass_high, cut, peak, count.to(tl.int32)).to(tl.int64)
                if mass_high.to(tl.float64) >= wanted:
                    phase = tl.full((), 1, tl.int64)
                    kept = tl.full((), -1, tl.int64)
                    low = high
                    above_low = above_high
                    high = as_key(peak).to(tl.int64)
                    above_high = tl.full((), 0, tl.int64)
                    mass_high = tl.full((), 0, tl.int64)
        else:
            phase = tl.full((), 2, tl.int64)
            kept = reaching(wanted, mass_high, cut, peak, kept.to(tl.int32)).to(tl.int64)
    return phase, low, high, above_low, above_high, mass_high, kept, wanted


@triton.jit
def state_of(
    p_state, p_counts, p_sums, peak, top_k, top_p, log_min_p, blocks,
    BLOCKS: tl.constexpr, PIVOTS: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """What is known of a row now: from what was known before a round, and what its programs found in that."""
    phase = tl.full((), 0, tl.int64)
    low = as_key(peak + log_min_p).to(tl.int64) - 1
    high = tl.where(top_k > 0, as_key(peak), as_key(peak + log_min_p)).to(tl.int64)
    above_low = tl.full((), 0, tl.int64)
    above_high = tl.full((), 0, tl.int64)
    mass_high = tl.full((), 0, tl.int64)
    kept = tl.full((), -1, tl.int64)
    wanted = tl.full((), 0.0, tl.float64)
    if FIRST:
        is_sound = (peak == peak) & (tl.abs(peak) < float("inf"))
        is_cut = (top_k > 0) | (top_p < 1.0)
        phase = tl.where(is_sound & is_cut, 0, 2).to(tl.int64)
        if phase == 2:
            high = low + 1
    else:
        phase = tl.load(p_state)
        low = tl.load(p_state + 1)
        high = tl.load(p_state + 2)
        above_low = tl.load(p_state + 3)
        above_high = tl.load(p_state + 4)
        mass_high = tl.load(p_state + 5)
        kept = tl.load(p_state + 6)
        wanted = tl.load(p_state + 7).to(tl.float64, bitcast=True)
        if phase < 2:
            o_b = tl.arange(0, BLOCKS)[:, None]
            o_x = o_b * PIVOTS + tl.arange(0, PIVOTS)[None, :]
            b_count = tl.sum(tl.load(p_counts + o_x, mask=o_b < blocks, other=0).to(tl.int64), 0)
            b_mass = tl.sum(tl.load(p_sums + o_x, mask=o_b < blocks, other=0), 0)
            phase, low, high, above_low, above_high, mass_high, kept, wanted = advance(
                phase, low, high, above_low, above_high, mass_high, kept, wanted, b_count, b_mass, top_k, top_p, peak,
                PIVOTS,
            )  # fmt: skip
    return phase, low, high, above_low, above_high, mass_high, kept, wanted


@triton.jit
def peak_of(p_peaks, blocks, BLOCKS: tl.constexpr):
    """The largest of a row's blocks; NaN if one of them is."""
    o_b = tl.arange(0, BLOCKS)
    return largest(tl.load(p_peaks + o_b, mask=o_b < blocks, other=float("-inf")))


@triton.jit(do_not_specialize=["vocabulary", "blocks"], do_not_specialize_on_alignment=[*RULES])
def look_kernel(
    p_new_state,
    p_old_state,
    p_new_counts,
    p_new_sums,
    p_old_counts,
    p_old_sums,
    p_peaks,
    p_logits,
    p_temperature,
    p_top_k,
    p_top_p,
    p_log_min_p,
    row_stride,
    vocabulary,
    blocks,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PIVOTS: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Grid (rows, blocks): what is known now, and what is above each pivot in this block, from the same of the round
    before: ``p_old_counts`` and ``p_old_sums`` are [rows, blocks, PIVOTS]."""
    i_row, i_block = tl.program_id(0), tl.program_id(1)
    peak = peak_of(p_peaks + i_row * blocks, blocks, BLOCKS)
    o_row = i_row * blocks * PIVOTS
    phase, low, high, above_low, above_high, mass_high, kept, wanted = state_of(
        p_old_state + 8 * i_row, p_old_counts + o_row, p_old_sums + o_row, peak, tl.load(p_top_k + i_row),
        tl.load(p_top_p + i_row), tl.load(p_log_min_p + i_row), blocks, BLOCKS, PIVOTS, FIRST,
    )  # fmt: skip
    if i_block == 0:
        p_new = p_new_state + 8 * i_row
        tl.store(p_new, phase)
        tl.store(p_new + 1, low)
        tl.store(p_new + 2, high)
        tl.store(p_new + 3, above_low)
        tl.store(p_new + 4, above_high)
        tl.store(p_new + 5, mass_high)
        tl.store(p_new + 6, kept)
        tl.store(p_new + 7, wanted.to(tl.int64, bitcast=True))
    if phase < 2:
        p_row = p_logits + i_row.to(tl.int64) * row_stride
        temperature = tl.load(p_temperature + i_row)
        b_pivot = pivots_of(low, high, PIVOTS)[:, None]
        b_count = tl.zeros((PIVOTS, CHUNK), tl.int32)
        b_mass = tl.zeros((PIVOTS, CHUNK), tl.int64)
        for i in range(0, BLOCK, CHUNK):
            b_x = scaled(p_row, i_block * BLOCK + i + tl.arange(0, CHUNK), vocabulary, temperature)
            m_x = as_key(b_x).to(tl.int64)[None, :] > b_pivot
            is_there = (i_block * BLOCK + i + tl.arange(0, CHUNK) < vocabulary)[None, :]
            b_count += (m_x & is_there).to(tl.int32)
            b_mass += tl.where(m_x, mass_of(b_x, peak)[None, :], 0)
        o_found = o_row + i_block * PIVOTS + tl.arange(0, PIVOTS)
        tl.store(p_new_counts + o_found, tl.sum(b_count, 1))
        tl.store(p_new_sums + o_found, tl.sum(b_mass, 1))


@triton.jit(do_not_specialize=["vocabulary", "blocks"], do_not_specialize_on_alignment=[*RULES])
def settle_kernel(
    p_cuts,
    p_peak,
    p_old_state,
    p_old_counts,
    p_old_sums,
    p_peaks,
    p_logits,
    p_temperature,
    p_top_k,
    p_top_p,
    p_log_min_p,
    row_stride,
    vocabulary,
    blocks,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIVOTS: tl.constexpr,
):
    """Grid (rows): the row's peak, the least key that is kept, and the last place at which that key is."""
    i_row = tl.program_id(0)
    peak = peak_of(p_peaks + i_row * blocks, blocks, BLOCKS)
    o_row = i_row * blocks * PIVOTS
    _, _, high, above_low, above_high, _, kept, _ = state_of(
        p_old_state + 8 * i_row, p_old_counts + o_row, p_old_sums + o_row, peak, tl.load(p_top_k + i_row),
        tl.load(p_top_p + i_row), tl.load(p_log_min_p + i_row), blocks, BLOCKS, PIVOTS, False,
    )  # fmt: skip
    cut = high.to(tl.int32)
    last = vocabulary
    if (kept >= 0) & (kept < above_low - above_high):
        p_row = p_logits + i_row.to(tl.int64) * row_stride
        last = last_of(p_row, vocabulary, tl.load(p_temperature + i_row), cut, kept.to(tl.int32), BLOCK)
    tl.store(p_peak + i_row, peak)
    tl.store(p_cuts + 2 * i_row, cut)
    tl.store(p_cuts + 2 * i_row + 1, last)
