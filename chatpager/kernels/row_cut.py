# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Where top-k and top-p cut a row of logits, found without a sort.

Numbers of single precision, read as whole ones, are in order. Halving the interval between a row's floor and its
largest number finds the k-th largest, or the least that top-p keeps, in at most 32 looks at the row, which stays in the
cache. Of equal numbers at the cut the first in the vocabulary are kept, as a stable sort would.

A token's mass is ``exp(x - peak)`` as a whole number of 42 binary places: sums of whole numbers are the same in any
order, so a row is cut in the same place whatever computes it, and by however many programs (``split_cut``).
"""

import triton
import triton.language as tl


@triton.jit
def largest(b_x):
    """NaN if one of them is no number."""
    m_wrong = b_x != b_x
    is_wrong = tl.max(m_wrong.to(tl.int32), 0) > 0
    return tl.where(is_wrong, float("nan"), tl.max(tl.where(m_wrong, float("-inf"), b_x), 0))


@triton.jit
def as_key(b_x):
    """Whole numbers in the order of the floats; both zeros are one."""
    b_bits = (b_x + 0.0).to(tl.int32, bitcast=True)
    return b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF)


@triton.jit
def scaled(p_row, o_x, vocabulary, temperature):
    """Logits over the temperature; -inf past the vocabulary's end."""
    b_x = tl.load(p_row + o_x, mask=o_x < vocabulary, other=float("-inf"))
    return tl.div_rn(b_x, temperature)


@triton.jit
def tokens_from(p_row, vocabulary, temperature, key, BLOCK: tl.constexpr):
    """How many tokens have this key or a larger one."""
    count = tl.full((), 0, tl.int32)
    for i in range(0, vocabulary, BLOCK):
        o_x = i + tl.arange(0, BLOCK)
        b_key = as_key(scaled(p_row, o_x, vocabulary, temperature))
        count += tl.sum(((b_key >= key) & (o_x < vocabulary)).to(tl.int32), 0)
    return count


@triton.jit
def mass_of(b_x, peak):
    """Of tokens; in two halves, since conversions to 64 bits are slow."""
    b_w = tl.exp(b_x - peak) * 2097152.0
    b_high = b_w.to(tl.int32)
    b_low = ((b_w - b_high.to(tl.float32)) * 2097152.0).to(tl.int32)
    return (b_high.to(tl.int64) << 21) + b_low


@triton.jit
def mass_above(p_row, vocabulary, temperature, peak, key, BLOCK: tl.constexpr):
    """How many tokens have a larger key, and their mass."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0, tl.int64)
    for i in range(0, vocabulary, BLOCK):
        b_x = scaled(p_row, i + tl.arange(0, BLOCK), vocabulary, temperature)
        m_x = as_key(b_x) > key
        count += tl.sum(m_x.to(tl.int32), 0)
        mass += tl.sum(tl.where(m_x, mass_of(b_x, peak), 0), 0)
    return count, mass


@triton.jit
def top_k_cut(p_row, vocabulary, temperature, lowest, highest, top_k, BLOCK: tl.constexpr):
    """The ``top_k``-th largest key from ``lowest`` to ``highest``, and how many tokens with just that key are to be
    kept: -1 for all."""
    low = lowest.to(tl.int64)
    high = highest.to(tl.int64)
    count = tokens_from(p_row, vocabulary, temperature, lowest, BLOCK)
    if count <= top_k:
        high = low
    while low < high:
        middle = low + (high - low + 1) // 2
        found = tokens_from(p_row, vocabulary, temperature, middle.to(tl.int32), BLOCK)
        if found >= top_k:
            low = middle
            count = found
        else:
            high = middle - 1
        if found == top_k:
            high = low
    cut = low.to(tl.int32)
    kept = tl.full((), -1, tl.int32)
    if count > top_k:
        kept = top_k - tokens_from(p_row, vocabulary, temperature, cut + 1, BLOCK)
    return cut, kept


@triton.jit
def top_p_cut(p_row, vocabulary, temperature, peak, cut, kept, highest, top_p, BLOCK: tl.constexpr):
    """The same for the fewest tokens that reach ``top_p`` of the mass, of those that ``cut`` and ``kept`` leave."""
    above, mass = mass_above(p_row, vocabulary, temperature, peak, cut, BLOCK)
    of_key = tokens_from(p_row, vocabulary, temperature, cut, BLOCK) - above
    if kept < 0:
        kept = of_key
    total = mass + weight_of(cut, peak) * kept
    wanted = total.to(tl.float64) * top_p
    low = cut.to(tl.int64)
    high = highest.to(tl.int64)
    above_high = tl.full((), 0, tl.int32)
    mass_high = tl.full((), 0, tl.int64)
    if mass.to(tl.float64) < wanted:
        high = low
        above_high = above
        mass_high = mass
    else:
        kept = tl.full((), -1, tl.int32)
        while high - low > 1:
            middle = low + (high - low) // 2
            found, mass = mass_above(p_row, vocabulary, temperature, peak, middle.to(tl.int32), BLOCK)
            if mass.to(tl.float64) < wanted:
                high = middle
                above_high = found
                mass_high = mass
            else:
                low = middle
                above = found
            if above - above_high == 1:  # all above low and none below, wherever the one between them lies
                high = low + 1
                low = high
    cut = high.to(tl.int32)
    if (low != high) | (kept >= 0):
        kept = reaching(wanted, mass_high, cut, peak, kept)
    return cut, kept


@triton.jit
def reaching(wanted, mass_high, cut, peak, kept):
    """How many tokens at the cut bring the mass above it to ``wanted``; of ``kept``, or of all if that is -1."""
    ratio = (wanted - mass_high.to(tl.float64)) / tl.maximum(weight_of(cut, peak).to(tl.float64), 1e-300)
    reached = tl.maximum(tl.ceil(tl.minimum(ratio, 1e9)).to(tl.int32), 1)
    return tl.where(kept < 0, reached, tl.minimum(kept, reached))


@triton.jit
def weight_of(key, peak):
    """The mass of a token that has this key."""
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    return mass_of(bits.to(tl.float32, bitcast=True), peak)


@triton.jit
def last_of(p_row, vocabulary, temperature, key, kept, BLOCK: tl.constexpr):
    """The place of the ``kept``-th token that has this key; the vocabulary's end if there are fewer."""
    last = vocabulary
    seen = tl.full((), 0, tl.int32)
    for i in range(0, vocabulary, BLOCK):
        o_x = i + tl.arange(0, BLOCK)
        m_x = (as_key(scaled(p_row, o_x, vocabulary, temperature)) == key) & (o_x < vocabulary)
        b_rank = seen + tl.cumsum(m_x.to(tl.int32), 0)
        last = tl.minimum(last, tl.min(tl.where(m_x & (b_rank == kept), o_x, vocabulary), 0))
        seen += tl.sum(m_x.to(tl.int32), 0)
    return last
