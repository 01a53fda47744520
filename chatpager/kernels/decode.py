# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Decode: one token a row. A program takes one row, one KV head and one piece of the context (a split)."""

import triton
import triton.language as tl

from chatpager.kernels.tiles import attend_tile, first_state, store_rows, store_unseen


@triton.jit(
    do_not_specialize=["table_stride", "window", "chunk", "n_splits"],
    do_not_specialize_on_alignment=["p_tables", "p_context", "p_sinks"],
)
def decode_kernel(
    p_out,
    p_lse,
    p_query,
    p_key,
    p_value,
    p_tables,
    p_context,
    p_sinks,
    score_scale,
    softcap,
    window,
    chunk,
    n_splits,
    query_stride_token,
    query_stride_head,
    out_stride_token,
    out_stride_head,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (KV_HEADS, batch, n_splits). The query heads of a group are the rows of one product, padded to ROWS, so
    that keys and values are read once for all of them. A row's splits are ``chunk`` tokens, a multiple of TILE, the
    last takes what remains; it follows that any ``chunk`` and ``n_splits`` give the whole context."""
    i_kv_head, i_row, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_r = tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_DIM)
    o_head = i_kv_head * GROUP + o_r
    o_token = tl.full([ROWS], 0, tl.int32) + i_row
    m_row = o_r < GROUP
    context_len = tl.load(p_context + i_row)
    i_low = 0
    if HAS_WINDOW:
        i_low = tl.maximum(context_len - window, 0)
    i_first = i_low // TILE * TILE
    i_start = i_first + i_split * chunk
    i_stop = tl.where(i_split == n_splits - 1, context_len, tl.minimum(i_start + chunk, context_len))
    if SPLIT:  # noqa: SIM102  (a constant: without splits there is no branch)
        if (i_start >= i_stop) & (i_split > 0):  # the first split goes on: it holds the sink
            store_unseen(p_lse, o_token, o_head, m_row, i_split, n_splits, KV_HEADS * GROUP)
            return

    p_q = p_query + o_token.to(tl.int64)[:, None] * query_stride_token + o_head[:, None] * query_stride_head
    b_q = tl.load(p_q + o_d[None, :], mask=m_row[:, None] & (o_d < HEAD_DIM)[None, :], other=0.0)
    b_max, b_sum = first_state(p_sinks, o_head, m_row, i_split, ROWS, HAS_SINKS)
    b_acc = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    o_pos = tl.full([ROWS], 0, tl.int32) + context_len - 1
    p_k = p_key + i_kv_head * STRIDE_HEAD
    p_v = p_value + i_kv_head * STRIDE_HEAD
    p_table = p_tables + i_row.to(tl.int64) * table_stride
    for i_tile in range(i_start, i_stop, TILE):
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_table, i_tile, i_low, i_stop, score_scale, softcap, window,
            True, HAS_WINDOW, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT,
        )  # fmt: skip
    store_rows(
        p_out, p_lse, b_acc, b_max, b_sum, o_token, o_head, m_row, i_split, n_splits, out_stride_token, out_stride_head,
        KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM, HAS_LSE, SPLIT,
    )  # fmt: skip
