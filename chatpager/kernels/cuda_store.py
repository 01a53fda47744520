# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The copies of ``store_kv`` on a GPU."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from chatpager.kernels.cuda import COMPILED, check_eight_bits, on_device
from chatpager.kernels.heuristics import power_of_2


@triton.jit(do_not_specialize_on_alignment=["p_slots"])
def store_kernel(
    p_key,
    p_value,
    p_key_cache,
    p_value_cache,
    p_slots,
    key_stride_token,
    key_stride_head,
    value_stride_token,
    value_stride_head,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (tokens, WIDTH / BLOCK): BLOCK of the WIDTH = num_kv_heads * HEAD_DIM numbers of one token."""
    i_token = tl.program_id(0).to(tl.int64)
    i_slot = tl.load(p_slots + i_token)
    if i_slot < 0:
        return
    o_x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < WIDTH
    o_head, o_d = o_x // HEAD_DIM, o_x % HEAD_DIM
    b_k = tl.load(p_key + i_token * key_stride_token + o_head * key_stride_head + o_d, mask=m_x)
    b_v = tl.load(p_value + i_token * value_stride_token + o_head * value_stride_head + o_d, mask=m_x)
    i_cache = i_slot // BLOCK_SIZE * STRIDE_BLOCK + i_slot % BLOCK_SIZE * STRIDE_SLOT
    tl.store(p_key_cache + i_cache + o_head * STRIDE_HEAD + o_d, b_k, mask=m_x)
    tl.store(p_value_cache + i_cache + o_head * STRIDE_HEAD + o_d, b_v, mask=m_x)


@triton.jit
def scale_of(b_top, p_cache):
    """Of rows whose largest number is ``b_top``: the scale that maps it to the cache's largest, and one over it."""
    largest: tl.constexpr = 127.0 if p_cache.dtype.element_ty == tl.int8 else 448.0
    return b_top / largest, tl.where(b_top > 0.0, largest / b_top, 0.0)


@triton.jit
def in_eight_bits(b_x, p_cache):
    """Rounded to the nearest number of the cache's type."""
    if p_cache.dtype.element_ty == tl.int8:
        return tl.floor(b_x + 0.5).to(tl.int8)
    else:
        return b_x.to(p_cache.dtype.element_ty)


@triton.jit
def store_in_eight_bits(p_new, o_new, p_cache, o_cache, p_scales, o_scale, m_x, m_head):
    b_x = tl.load(p_new + o_new, mask=m_x, other=0.0).to(tl.float32)
    b_scale, b_inverse = scale_of(tl.max(tl.abs(b_x), 1), p_cache)
    tl.store(p_cache + o_cache, in_eight_bits(b_x * b_inverse[:, None], p_cache), mask=m_x)
    tl.store(p_scales + o_scale, b_scale, mask=m_head)


@triton.jit(do_not_specialize_on_alignment=["p_slots"])
def store_eight_kernel(
    p_key,
    p_value,
    p_key_cache,
    p_value_cache,
    p_key_scales,
    p_value_scales,
    p_slots,
    key_stride_token,
    key_stride_head,
    value_stride_token,
    value_stride_head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Grid (tokens, KV_HEADS / BLOCK_HEADS): some heads of one token, each with a scale of its own."""
    i_token = tl.program_id(0).to(tl.int64)
    i_slot = tl.load(p_slots + i_token)
    if i_slot < 0:
        return
    o_head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    o_d = tl.arange(0, BLOCK_DIM)
    m_head = o_head < KV_HEADS
    m_x = m_head[:, None] & (o_d < HEAD_DIM)[None, :]
    i_block, i_offset = i_slot // BLOCK_SIZE, i_slot % BLOCK_SIZE
    o_cache = i_block * STRIDE_BLOCK + i_offset * STRIDE_SLOT + o_head[:, None] * STRIDE_HEAD + o_d[None, :]
    o_scale = (i_block * KV_HEADS + o_head) * BLOCK_SIZE + i_offset
    o_new = i_token * key_stride_token + o_head[:, None] * key_stride_head + o_d[None, :]
    store_in_eight_bits(p_key, o_new, p_key_cache, o_cache, p_key_scales, o_scale, m_x, m_head)
    o_new = i_token * value_stride_token + o_head[:, None] * value_stride_head + o_d[None, :]
    store_in_eight_bits(p_value, o_new, p_value_cache, o_cache, p_value_scales, o_scale, m_x, m_head)


@triton.jit(do_not_specialize_on_alignment=["p_pairs"])
def copy_kernel(
    p_cache,
    p_pairs,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (pairs, numbers of a block / BLOCK)."""
    p_pair = p_pairs + tl.program_id(0).to(tl.int64) * 2
    i_source, i_target = tl.load(p_pair), tl.load(p_pair + 1)
    o_x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_x = o_x < BLOCK_SIZE * KV_HEADS * HEAD_DIM
    o_slot = o_x // (KV_HEADS * HEAD_DIM)
    o_cache = o_slot * STRIDE_SLOT + o_x // HEAD_DIM % KV_HEADS * STRIDE_HEAD + o_x % HEAD_DIM
    b_x = tl.load(p_cache + i_source * STRIDE_BLOCK + o_cache, mask=m_x)
    tl.store(p_cache + i_target * STRIDE_BLOCK + o_cache, b_x, mask=m_x)


def store_kv(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> None:
    """As ``chatpager.kernels.store_kv``, on arguments that were checked there."""
    tokens, kv_heads, head_dim = key.shape
    width = kv_heads * head_dim
    if tokens == 0:
        return
    key = key if key.stride(2) == 1 else key.contiguous()
    value = value if value.stride(2) == 1 else value.contiguous()
    if scales is not None:
        _store_eight(key, value, key_cache, value_cache, slot_mapping, scales)
        return
    block = min(1024, power_of_2(width))
    block_stride, slot_stride, head_stride, _ = key_cache.stride()
    with on_device(key):
        store_kernel[(tokens, triton.cdiv(width, block))](
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping.contiguous(),
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            HEAD_DIM=head_dim,
            WIDTH=width,
            BLOCK_SIZE=key_cache.shape[1],
            STRIDE_BLOCK=block_stride,
            STRIDE_SLOT=slot_stride,
            STRIDE_HEAD=head_stride,
            BLOCK=block,
            **COMPILED,
        )


def _store_eight(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: tuple[Tensor, Tensor],
) -> None:
    check_eight_bits(key_cache.dtype, key_cache.device)
    constants = store_eight_constants(key_cache)
    with on_device(key):
        store_eight_kernel[(key.shape[0], triton.cdiv(key.shape[1], constants["BLOCK_HEADS"]))](
            key, value, key_cache, value_cache, *scales, slot_mapping.contiguous(),
            key.stride(0), key.stride(1), value.stride(0), value.stride(1), **constants, **COMPILED,
        )  # fmt: skip


def store_eight_constants(cache: Tensor) -> dict[str, int]:
    """The constant arguments of ``store_eight_kernel`` by name."""
    _, block_size, kv_heads, head_dim = cache.shape
    block_stride, slot_stride, head_stride, _ = cache.stride()
    block_dim = power_of_2(head_dim)
    return {
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": block_size,
        "STRIDE_BLOCK": block_stride,
        "STRIDE_SLOT": slot_stride,
        "STRIDE_HEAD": head_stride,
        "BLOCK_HEADS": min(power_of_2(kv_heads), max(1, 1024 // block_dim)),
        "BLOCK_DIM": block_dim,
    }


def copy_blocks(key_caches: Sequence[Tensor], value_caches: Sequence[Tensor], pairs: Tensor) -> None:
    """As ``chatpager.kernels.copy_blocks``, on arguments that were checked there."""
    pairs = pairs.contiguous()
    if pairs.shape[0] == 0:
        return
    for cache in (*key_caches, *value_caches):
        _, block_size, kv_heads, head_dim = cache.shape
        block_stride, slot_stride, head_stride, _ = cache.stride()
        with on_device(cache):
            copy_kernel[(pairs.shape[0], triton.cdiv(block_size * kv_heads * head_dim, 1024))](
                cache,
                pairs,
                STRIDE_BLOCK=block_stride,
                STRIDE_SLOT=slot_stride,
                STRIDE_HEAD=head_stride,
                BLOCK_SIZE=block_size,
                KV_HEADS=kv_heads,
                HEAD_DIM=head_dim,
                BLOCK=1024,
                **COMPILED,
            )
