# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Decode: one token a row. A program takes one row, one KV head and the context, or a piece of it."""

import triton
import triton.language as tl

from chatpager.kernels.planner import ITEM_WORDS
from chatpager.kernels.tiles import attend_tile, first_state, store_part, store_rows


@triton.jit(
    do_not_specialize=["table_stride", "window"],
    do_not_specialize_on_alignment=["p_tables", "p_context", "p_sinks", "p_items"],
)
def decode_kernel(
    p_out,
    p_lse,
    p_part_out,
    p_part_lse,
    p_items,
    p_query,
    p_key,
    p_value,
    p_key_scales,
    p_value_scales,
    p_tables,
    p_context,
    p_sinks,
    score_scale,
    softcap,
    window,
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
    """Grid (KV_HEADS, batch), or under SPLIT (KV_HEADS, places of ``plan_kernel``'s list). The query heads of a group
    are the rows of one product, padded to ROWS, so that keys and values are read once for all of them. A row in one
    piece goes straight to the output; pieces go to the partials at their place in the list."""
    i_kv_head, i_item = tl.program_id(0), tl.program_id(1)
    i_row = i_item
    if SPLIT:
        i_row = tl.load(p_items + i_item * ITEM_WORDS)
        if i_row < 0:
            return
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
    i_start = i_first
    i_stop = context_len
    if SPLIT:
        i_start = tl.load(p_items + i_item * ITEM_WORDS + 1)
        i_stop = tl.load(p_items + i_item * ITEM_WORDS + 2)

    p_q = p_query + o_token.to(tl.int64)[:, None] * query_stride_token + o_head[:, None] * query_stride_head
    b_q = tl.load(p_q + o_d[None, :], mask=m_row[:, None] & (o_d < HEAD_DIM)[None, :], other=0.0)
    b_max, b_sum = first_state(p_sinks, o_head, m_row, i_start == i_first, ROWS, HAS_SINKS)
    b_acc = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    o_pos = tl.full([ROWS], 0, tl.int32) + context_len - 1
    p_k = p_key + i_kv_head * STRIDE_HEAD
    p_v = p_value + i_kv_head * STRIDE_HEAD
    p_ks = p_key_scales
    p_vs = p_value_scales
    if SCALES:
        p_ks += i_kv_head * BLOCK_SIZE
        p_vs += i_kv_head * BLOCK_SIZE
    p_table = p_tables + i_row.to(tl.int64) * table_stride
    for i_tile in range(i_start, i_stop, TILE):
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_ks, p_vs, p_table, i_tile, i_low, i_stop, score_scale, softcap,
            window, True, HAS_WINDOW, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT,
            SCALES,
        )  # fmt: skip
    if SPLIT:
        is_part = (i_start > i_first) | (i_stop < context_len)
        n_part = tl.where(is_part, GROUP, 0)  # the interpreter takes no scalar truth beside a block's
        o_slot = tl.full([ROWS], 0, tl.int32) + i_item
        store_part(
            p_part_out, p_part_lse, b_acc, b_max, b_sum, o_slot, o_head, o_r < n_part,
            KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM,
        )  # fmt: skip
        m_row = o_r < GROUP - n_part
    store_rows(
        p_out, p_lse, b_acc, b_max, b_sum, o_token, o_head, m_row, out_stride_token, out_stride_head,
        KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM, HAS_LSE,
    )  # fmt: skip
