# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Merge: join the partial results of a row's pieces by their log-sum-exp, always in the same order."""

import triton
import triton.language as tl

from chatpager.kernels.tiles import LN2, LOWEST


@triton.jit(
    do_not_specialize=["n_splits", "tokens", "first_slot"], do_not_specialize_on_alignment=["p_rows", "p_shared"]
)
def merge_kernel(
    p_out,
    p_lse,
    p_part_out,
    p_part_lse,
    p_rows,
    p_shared,
    n_splits,
    tokens,
    first_slot,
    out_stride_token,
    out_stride_head,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_LSE: tl.constexpr,
    PLANNED: tl.constexpr,
    SHARED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (tokens, HEADS). Partials as ``store_part`` leaves them, SPLITS at a time. PLANNED: a row's slots are those
    that ``plan_kernel`` noted in ``p_rows``, and a row of one piece has its result already; else they are ``tokens``
    apart. SHARED: a row with a ``p_shared`` prefix has ``n_splits`` more before them, where ``prefix_kernel`` put them
    from ``first_slot`` on. A piece with an lse of -inf left no output: it is skipped by select, since what lies there
    may be NaN."""
    i_token, i_head = tl.program_id(0), tl.program_id(1)
    i_slot = i_token
    n_parts = n_splits
    step = tokens
    if PLANNED:
        i_slot = tl.load(p_rows + 2 * i_token)
        n_parts = tl.load(p_rows + 2 * i_token + 1)
        step = 1
    n_before = 0
    if SHARED:
        n_before = tl.where(tl.load(p_shared + i_token) > 0, n_splits, 0)
        n_parts += n_before
    if PLANNED:  # noqa: SIM102  (a constant: without a plan there is no branch)
        if n_parts < 2:
            return
    o_d = tl.arange(0, BLOCK_DIM)
    b_max = tl.full((), LOWEST, tl.float32)
    b_sum = tl.full((), 0.0, tl.float32)
    b_acc = tl.zeros([BLOCK_DIM], tl.float32)
    for i in range(0, n_parts, SPLITS):
        o_s = i + tl.arange(0, SPLITS)
        o_slot = i_slot + (o_s - n_before).to(tl.int64) * step
        if SHARED:
            o_slot = tl.where(o_s < n_before, first_slot + i_token * n_splits + o_s, o_slot)
        o_row = o_slot * HEADS + i_head
        b_lse = tl.load(p_part_lse + o_row, mask=o_s < n_parts, other=float("-inf"))
        m_seen = b_lse > float("-inf")
        b_new = tl.maximum(b_max, tl.max(b_lse, 0))
        b_decay = tl.exp2(b_max - b_new)
        b_weight = tl.where(m_seen, tl.exp2(b_lse - b_new), 0.0)
        m_part = m_seen[:, None] & (o_d < HEAD_DIM)[None, :]
        b_part = tl.load(p_part_out + o_row[:, None] * HEAD_DIM + o_d[None, :], mask=m_part, other=0.0)
        b_acc = b_acc * b_decay + tl.sum(b_part * b_weight[:, None], 0)
        b_sum = b_sum * b_decay + tl.sum(b_weight, 0)
        b_max = b_new
    m_any = b_sum > 0.0
    b_sum = tl.where(m_any, b_sum, 1.0)
    p_row = p_out + i_token.to(tl.int64) * out_stride_token + i_head * out_stride_head
    tl.store(p_row + o_d, (b_acc / b_sum).to(p_out.dtype.element_ty), mask=o_d < HEAD_DIM)
    if HAS_LSE:
        b_lse = tl.where(m_any, (b_max + tl.log2(b_sum)) * LN2, float("-inf"))
        tl.store(p_lse + i_token.to(tl.int64) * HEADS + i_head, b_lse)
