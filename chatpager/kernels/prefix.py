# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Shared prefix: rows of decode whose contexts begin with the same pages attend to those once, all rows together.

What each has behind them is decode's, and ``merge_kernel`` joins both (Juravsky et al., "Hydragen" (2024); Ye et al.,
"Cascade Inference" (2024))."""

import triton
import triton.language as tl

from chatpager.kernels.extend import find_row
from chatpager.kernels.tiles import attend_tile, first_state, store_part, store_unseen


@triton.jit(
    do_not_specialize=["table_stride", "n_splits", "groups", "first_slot"],
    do_not_specialize_on_alignment=["p_tables", "p_starts", "p_members", "p_lengths", "p_sinks"],
)
def prefix_kernel(
    p_part_out,
    p_part_lse,
    p_query,
    p_key,
    p_value,
    p_key_scales,
    p_value_scales,
    p_tables,
    p_starts,
    p_members,
    p_lengths,
    p_sinks,
    score_scale,
    softcap,
    n_splits,
    groups,
    first_slot,
    query_stride_token,
    query_stride_head,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    SCALES: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (KV_HEADS, members // TOKENS + groups, n_splits) with TOKENS = ROWS // GROUP. Row r of the product is member
    ``r // GROUP`` of a group, query head ``r % GROUP``; all of them see the whole prefix, so only the last tile needs a
    mask. Splits are equal and of whole tiles; a row's go to the partials from ``first_slot + row * n_splits`` on."""
    TOKENS: tl.constexpr = ROWS // GROUP
    i_kv_head, i_split = tl.program_id(0), tl.program_id(2)
    i_block = tl.program_id(1)
    i_group = find_row(p_starts, i_block, groups, TOKENS)
    i_begin = tl.load(p_starts + i_group)
    n_members = tl.load(p_starts + i_group + 1) - i_begin
    i_member = (i_block - (i_begin // TOKENS + i_group)) * TOKENS
    if i_member >= n_members:
        return
    o_r = tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_DIM)
    o_head = i_kv_head * GROUP + o_r % GROUP
    o_member = i_member + o_r // GROUP
    m_row = (o_r < TOKENS * GROUP) & (o_member < n_members)
    o_token = tl.load(p_members + i_begin + o_member, mask=m_row, other=0)
    o_slot = first_slot + o_token * n_splits + i_split
    length = tl.load(p_lengths + i_group)
    chunk = tl.cdiv(tl.cdiv(length, n_splits), TILE) * TILE
    i_start = i_split * chunk
    i_stop = tl.minimum(i_start + chunk, length)
    if i_start >= i_stop:  # never the first split, which holds the sink
        store_unseen(p_part_lse, o_slot, o_head, m_row, KV_HEADS * GROUP)
        return

    p_q = p_query + o_token.to(tl.int64)[:, None] * query_stride_token + o_head[:, None] * query_stride_head
    b_q = tl.load(p_q + o_d[None, :], mask=m_row[:, None] & (o_d < HEAD_DIM)[None, :], other=0.0)
    b_max, b_sum = first_state(p_sinks, o_head, m_row, i_split == 0, ROWS, HAS_SINKS)
    b_acc = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    o_pos = tl.full([ROWS], 0, tl.int32) + length - 1
    p_k = p_key + i_kv_head * STRIDE_HEAD
    p_v = p_value + i_kv_head * STRIDE_HEAD
    p_ks = p_key_scales
    p_vs = p_value_scales
    if SCALES:
        p_ks += i_kv_head * BLOCK_SIZE
        p_vs += i_kv_head * BLOCK_SIZE
    p_table = p_tables + tl.load(p_members + i_begin).to(tl.int64) * table_stride
    i_whole = i_stop // TILE * TILE
    for i_tile in range(i_start, i_whole, TILE):
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_ks, p_vs, p_table, i_tile, 0, i_stop, score_scale, softcap,
            0, False, False, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT, SCALES,
        )  # fmt: skip
    for i_tile in range(i_whole, i_stop, TILE):
        b_acc, b_max, b_sum = attend_tile(
            b_acc, b_max, b_sum, b_q, o_pos, p_k, p_v, p_ks, p_vs, p_table, i_tile, 0, i_stop, score_scale, softcap,
            0, True, False, HAS_SOFTCAP, BLOCK_SIZE, TILE, HEAD_DIM, BLOCK_DIM, STRIDE_BLOCK, STRIDE_SLOT, SCALES,
        )  # fmt: skip
    store_part(
        p_part_out, p_part_lse, b_acc, b_max, b_sum, o_slot, o_head, m_row, KV_HEADS * GROUP, HEAD_DIM, BLOCK_DIM
    )
