# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Extend: prompts, chunks of prompts and new turns. A program takes a block of one row's new tokens and one KV head."""

import triton
import triton.language as tl

from chatpager.kernels.tiles import attend_tile, first_state, store_part, store_rows, store_unseen


@triton.jit
def find_row(p_start, i_block, batch, TOKENS: tl.constexpr):
    """The row whose blocks hold ``i_block``. Row i's first block is ``start[i] // TOKENS + i``: that leaves room for
    every row's last, partly filled block, and needs no table of blocks. The last row with that number owns it."""
    i_left, i_right = tl.full((), 0, tl.int32), batch
    while i_right - i_left > 1:
        i_middle = (i_left + i_right) // 2
        if tl.load(p_start + i_middle) // TOKENS + i_middle <= i_block:
            i_left = i_middle
        else:
            i_right = i_middle
    return i_left


@triton.jit(
    do_not_specialize=["table_stride", "window", "chunk", "n_splits", "batch", "tokens"],
    do_not_specialize_on_alignment=["p_tables", "p_context", "p_start", "p_sinks"],
)
def extend_kernel(
    p_out,
    p_lse,
    p_part_out,
    p_part_lse,
    p_query,
    p_key,
    p_value,
    p_key_scales,
    p_value_scales,
    p_tables,
    p_context,
    p_start,
    p_sinks,
    score_scale,
    softcap,
    window,
    chunk,
    n_splits,
    batch,
    tokens,
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
    SCALES: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_LSE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (KV_HEADS, tokens // TOKENS + batch, n_splits) with TOKENS = ROWS // GROUP. Row r of the product is token
    ``r // GROUP``, query head ``r % GROUP``. Blocks are taken from the last to the first: a row's last block sees the
    most keys, and the longest work should start first. A split sees ``chunk`` tokens of a block's context, the last
    what remains; under SPLIT its rows go to slot ``split * tokens + token`` of the partials."""
    TOKENS: tl.constexpr = ROWS // GROUP
    i_kv_head, i_split = tl.program_id(0), tl.program_id(2)
    i_block = tl.num_programs(1) - 1 - tl.program_id(1)
    i_row = find_row(p_start, i_block, batch, TOKENS)
    i_begin = tl.load(p_start + i_row)
    query_len = tl.load(p_start + i_row + 1) - i_begin
    i_token = (i_block - (i_begin // TOKENS + i_row)) * TOKENS
    if i_token >= query_len:
        return
    context_len = tl.load(p_context + i_row)
    o_r = tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_DIM)
    o_head = i_kv_head * GROUP + o_r % GROUP
    o_token = i_token + o_r // GROUP
    m_row = (o_r < TOKENS * GROUP) & (o_token < query_len)
    o_pos = context_len - query_len + o_token
    o_token = i_begin + o_token

    # The block's first query sees keys up to i_near, its last up to i_stop; the first's window opens at i_low, the
    # last's at i_far. Keys from i_far to i_near are seen by all rows.
    i_near = context_len - query_len + i_token + 1
    i_stop = tl.minimum(i_near + TOKENS - 1, context_len)
    i_low = 0
    i_far = 0
    if HAS_WINDOW:
        i_low = tl.maximum(i_near - window, 0)
        i_far = tl.maximum(i_stop - window, 0)
    i_start = i_low // TILE * TILE + i_split * chunk
    i_end = tl.maximum(tl.where(i_split == n_splits - 1, i_stop, tl.minimum(i_start + chunk, i_stop)), i_start)
    if SPLIT:  # noqa: SIM102  (a constant: without splits there is no branch)
        if i_start >= i_stop:  # never the first split, which holds the sink
            store_unseen(p_part_lse, i_split * tokens + o_token, o_head, m_row, KV_HEADS * GROUP)
            return
    i_inner = tl.minimum(tl.maximum((i_far + TILE - 1) // TILE * TILE, i_start), i_end)
    i_inner_end = tl.maximum(tl.minimum(i_near // TILE * TILE, i_end), i_inner)

    p_q = p_query + o_token.to(tl.int64)[:, None] * query_stride_token + o_head[:, None] * query_stride_head
    b_q = tl.load(p_q + o_d[None, :], mask=m_row[:, None] & (o_d < HEAD_DIM)[None, :], other=0.0)
    b_max, b_sum = first_state(p_sinks, o_head, m_row, i_split == 0, ROWS, HAS_SINKS)
    b_acc = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    p_k = p_key + i_kv_head * STRIDE_HEAD
    p_v = p_value + i_kv_head * STRIDE_HEAD
    p_ks = p_key_scales
    p_vs = p_value_scales
    if SCALES:
        p_ks += i_kv_head * BLOCK_SIZE
        p_vs += i_kv_head * BLOCK_SIZE
    p_table = p_tables + i_row.to(tl.int64) * table_stride
    for i_tile in range(i_inner, i_inner_end, TILE):
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_ks, p_vs, p_table, i_tile, i_low, i_stop, score_scale, softcap,
            window, False, HAS_WINDOW, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT,
            SCALES,
        )  # fmt: skip
    # The tiles on both edges in one loop: before i_inner while there are any, then from i_inner_end on.
    n_before = (i_inner - i_start + TILE - 1) // TILE
    n_edge = n_before + (i_end - i_inner_end + TILE - 1) // TILE
    for i in range(0, n_edge):
        i_tile = tl.where(i < n_before, i_start + i * TILE, i_inner_end + (i - n_before) * TILE)
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_ks, p_vs, p_table, i_tile, i_low, i_stop, score_scale, softcap,
            window, True, HAS_WINDOW, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT,
            SCALES,
        )  # fmt: skip
    if SPLIT:
        store_part(
            p_part_out, p_part_lse, b_acc, b_max, b_sum, i_split * tokens + o_token, o_head, m_row,
            KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM,
        )  # fmt: skip
    else:
        store_rows(
            p_out, p_lse, b_acc, b_max, b_sum, o_token, o_head, m_row, out_stride_token, out_stride_head,
            KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM, HAS_LSE,
        )  # fmt: skip
