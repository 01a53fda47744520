# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Merge: join the partial results of a row's splits by their log-sum-exp, always in the same order."""

import triton
import triton.language as tl

from chatpager.kernels.tiles import LN2


@triton.jit(do_not_specialize=["n_splits"])
def merge_kernel(
    p_out,
    p_lse,
    p_partial_out,
    p_partial_lse,
    n_splits,
    out_stride_token,
    out_stride_head,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_LSE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (tokens, HEADS). Partials as ``store_rows`` leaves them, fp32, lse in base 2; SPLITS is a power of two, at
    least n_splits. A split with an lse of -inf left no output: it is skipped by select, since what lies there may be
    NaN."""
    i_token, i_head = tl.program_id(0), tl.program_id(1)
    o_s = tl.arange(0, SPLITS)
    o_d = tl.arange(0, BLOCK_DIM)
    i_row = i_token.to(tl.int64) * HEADS + i_head
    o_split = i_row * n_splits + o_s
    b_lse = tl.load(p_partial_lse + o_split, mask=o_s < n_splits, other=float("-inf"))
    m_seen = b_lse > float("-inf")
    b_max = tl.max(b_lse, 0)
    b_weight = tl.where(m_seen, tl.exp2(b_lse - tl.where(b_max > float("-inf"), b_max, 0.0)), 0.0)
    b_sum = tl.sum(b_weight, 0)
    m_any = b_sum > 0.0
    b_sum = tl.where(m_any, b_sum, 1.0)
    m_part = m_seen[:, None] & (o_d < HEAD_DIM)[None, :]
    b_part = tl.load(p_partial_out + o_split[:, None] * HEAD_DIM + o_d[None, :], mask=m_part, other=0.0)
    b_out = tl.sum(b_part * b_weight[:, None], 0) / b_sum
    p_row = p_out + i_token.to(tl.int64) * out_stride_token + i_head * out_stride_head
    tl.store(p_row + o_d, b_out.to(p_out.dtype.element_ty), mask=o_d < HEAD_DIM)
    if HAS_LSE:
        tl.store(p_lse + i_row, tl.where(m_any, (b_max + tl.log2(b_sum)) * LN2, float("-inf")))
