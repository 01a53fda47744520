# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What the decode and the extend kernel share: the walk over pages, one tile of attention, and the store of rows.

Names in kernels: ``i_`` program index or position, ``p_`` pointer, ``o_`` offsets, ``b_`` loaded block, ``m_`` mask.
Scores are in base 2: they carry a factor log2(e), so that the softmax is ``exp2``.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1.0e38)
"""First running maximum: finite, so that a tile without a visible key gives exp2(-inf), never exp2(-inf + inf)."""


@triton.jit
def tile_offsets(
    p_table,
    i_start,
    i_stop,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    SCALES: tl.constexpr,
):
    """Offsets [TILE] of the tokens from ``i_start`` on, a multiple of TILE, in the cache and in a head's scales; 64
    bits wide, since a page's number times its size passes 2^31. Table entries past ``i_stop`` are not read: the table
    may end there."""
    o_t = tl.arange(0, TILE)
    if BLOCK_SIZE % TILE == 0:
        b_page = tl.load(p_table + i_start // BLOCK_SIZE).to(tl.int64)
        o_slot = i_start % BLOCK_SIZE + o_t
    else:
        o_kv = i_start + o_t
        b_page = tl.load(p_table + o_kv // BLOCK_SIZE, mask=o_kv < i_stop, other=0).to(tl.int64)
        o_slot = o_kv % BLOCK_SIZE
    return b_page * STRIDE_BLOCK + o_slot * STRIDE_SLOT, b_page * SCALES + o_slot


@triton.jit
def attend_tile(
    b_acc,
    b_max,
    b_sum,
    b_q,
    o_pos,
    p_key,
    p_value,
    p_key_scale,
    p_value_scale,
    p_table,
    i_start,
    i_low,
    i_stop,
    score_scale,
    softcap,
    window,
    MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    SCALES: tl.constexpr,
):
    """One step of the running softmax over the tokens ``i_start`` to ``i_start + TILE`` of a row.

    ``b_q`` [rows, BLOCK_DIM] are queries at positions ``o_pos`` [rows]; only tokens from ``i_low`` up to ``i_stop`` are
    loaded. MASKED = False promises that every row sees the whole tile. ``score_scale`` and ``softcap`` come from
    the launch. SCALES is 0, or how many scales a block has: keys and values are then of eight bits, and each token's
    pair of numbers of this head multiplies its scores and its weights, not its vectors.
    """
    o_d = tl.arange(0, BLOCK_DIM)
    o_cache, o_scale = tile_offsets(p_table, i_start, i_stop, BLOCK_SIZE, TILE, STRIDE_BLOCK, STRIDE_SLOT, SCALES)
    o_cache = o_cache[:, None] + o_d[None, :]  # [TILE, BLOCK_DIM]
    o_kv = i_start + tl.arange(0, TILE)
    # What lies past the context may be NaN, and 0 * NaN is NaN: masked values must be zeros, not only masked scores.
    if MASKED:
        m_kv = ((o_kv >= i_low) & (o_kv < i_stop))[:, None] & (o_d < HEAD_DIM)[None, :]
        b_k = tl.load(p_key + o_cache, mask=m_kv, other=0.0)
    elif HEAD_DIM < BLOCK_DIM:
        b_k = tl.load(p_key + o_cache, mask=(o_d < HEAD_DIM)[None, :], other=0.0)
    else:
        b_k = tl.load(p_key + o_cache)
    if SCALES:
        m_scale = (o_kv >= i_low) & (o_kv < i_stop)
        b_key_scale = tl.load(p_key_scale + o_scale, mask=m_scale, other=0.0)
        b_value_scale = tl.load(p_value_scale + o_scale, mask=m_scale, other=0.0)
        b_k = b_k.to(b_q.dtype)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * score_scale  # [rows, TILE]
    if SCALES:
        b_s = b_s * b_key_scale[None, :]
    if HAS_SOFTCAP:
        b_s = softcap * (1.0 - 2.0 / (tl.exp2(b_s) + 1.0))
    if MASKED:
        m_s = o_kv[None, :] <= o_pos[:, None]
        if HAS_WINDOW:
            m_s = m_s & (o_kv[None, :] > o_pos[:, None] - window)
        b_s = tl.where(m_s, b_s, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_p = tl.exp2(b_s - b_new[:, None])
    b_decay = tl.exp2(b_max - b_new)
    if MASKED:
        b_v = tl.load(p_value + o_cache, mask=m_kv, other=0.0)
    elif HEAD_DIM < BLOCK_DIM:
        b_v = tl.load(p_value + o_cache, mask=(o_d < HEAD_DIM)[None, :], other=0.0)
    else:
        b_v = tl.load(p_value + o_cache)
    b_sum = b_sum * b_decay + tl.sum(b_p, 1)
    if SCALES:
        b_p = b_p * b_value_scale[None, :]
        b_v = b_v.to(b_q.dtype)
    b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_decay[:, None], input_precision="ieee")
    return b_acc, b_new, b_sum


@triton.jit
def first_state(p_sinks, o_head, m_row, is_first, ROWS: tl.constexpr, HAS_SINKS: tl.constexpr):
    """Running maximum and sum [ROWS] before the first tile. The sink is a key seen before all others, by the piece of
    the context that ``is_first``; a sink of -inf is none."""
    if HAS_SINKS:
        b_sink = tl.load(p_sinks + o_head, mask=m_row, other=0.0).to(tl.float32) * LOG2E
        m_sink = (b_sink > LOWEST) & is_first
        return tl.where(m_sink, b_sink, LOWEST), tl.where(m_sink, 1.0, 0.0)
    else:
        return tl.full([ROWS], LOWEST, tl.float32), tl.zeros([ROWS], tl.float32)


@triton.jit
def finished(b_acc, b_max, b_sum):
    """The output and the base-2 log-sum-exp of rows; one that saw nothing gives zeros and -inf."""
    m_seen = b_sum > 0.0
    b_sum = tl.where(m_seen, b_sum, 1.0)
    return b_acc / b_sum[:, None], tl.where(m_seen, b_max + tl.log2(b_sum), float("-inf"))


@triton.jit
def store_rows(
    p_out,
    p_lse,
    b_acc,
    b_max,
    b_sum,
    o_token,
    o_head,
    m_row,
    out_stride_token,
    out_stride_head,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    HAS_LSE: tl.constexpr,
):
    """Rows whose whole context was seen, to where they are wanted."""
    o_d = tl.arange(0, BLOCK_DIM)
    b_out, b_lse = finished(b_acc, b_max, b_sum)
    if HAS_LSE:
        tl.store(p_lse + o_token.to(tl.int64) * HEADS + o_head, b_lse * LN2, mask=m_row)
    p_rows = p_out + o_token.to(tl.int64) * out_stride_token + o_head * out_stride_head
    m_out = m_row[:, None] & (o_d < HEAD_DIM)[None, :]
    tl.store(p_rows[:, None] + o_d[None, :], b_out.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
def store_part(
    p_part_out,
    p_part_lse,
    b_acc,
    b_max,
    b_sum,
    o_slot,
    o_head,
    m_row,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Rows of which a piece of the context was seen, to partials: out [slots, HEADS, HEAD_DIM] and base-2 lse [slots,
    HEADS], both fp32, which ``merge_kernel`` joins."""
    o_d = tl.arange(0, BLOCK_DIM)
    b_out, b_lse = finished(b_acc, b_max, b_sum)
    o_row = o_slot.to(tl.int64) * HEADS + o_head
    tl.store(p_part_lse + o_row, b_lse, mask=m_row)
    m_out = m_row[:, None] & (o_d < HEAD_DIM)[None, :]
    tl.store(p_part_out + o_row[:, None] * HEAD_DIM + o_d[None, :], b_out, mask=m_out)


@triton.jit
def store_unseen(p_part_lse, o_slot, o_head, m_row, HEADS: tl.constexpr):
    """What a piece that has nothing to look at leaves in the partials."""
    o_row = o_slot.to(tl.int64) * HEADS + o_head
    tl.store(p_part_lse + o_row, tl.full(o_row.shape, float("-inf"), tl.float32), mask=m_row)
