# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What a decoder layer does between its products on a GPU, one launch each: norms, rotary embedding, gate.

Tensors are [rows, ...] of one dtype, their last dimension contiguous; nothing here is checked again. Numbers are
rounded wherever transformers' modules round them, so that a fused layer computes what the plain one does, but for the
order of a norm's sum and the last bits of a function.
"""

import triton
import triton.language as tl
from torch import Tensor

from chatpager.kernels.cuda import COMPILED, check_eight_bits, on_device
from chatpager.kernels.cuda_store import in_eight_bits, scale_of
from chatpager.kernels.heuristics import power_of_2

AT_ONCE = 2048
"""Numbers that one program of four warps holds of a row, or of several heads."""


@triton.jit
def norm_kernel(
    p_out,
    p_x,
    p_delta,
    p_weight,
    eps,
    x_stride,
    delta_stride,
    DIM: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows): ``x += delta`` where there is one, then the RMS norm of x (Zhang and Sennrich 2019)."""
    i_row = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK)
    m_d = o_d < DIM
    p_row = p_x + i_row * x_stride + o_d
    b_x = tl.load(p_row, mask=m_d, other=0.0).to(tl.float32)
    if HAS_DELTA:
        b_delta = tl.load(p_delta + i_row * delta_stride + o_d, mask=m_d, other=0.0)
        b_sum = (b_x + b_delta.to(tl.float32)).to(p_x.dtype.element_ty)
        tl.store(p_row, b_sum, mask=m_d)
        b_x = b_sum.to(tl.float32)
    b_scale = tl.rsqrt(tl.sum(b_x * b_x, 0) / DIM + eps)
    b_x = (b_x * b_scale).to(p_x.dtype.element_ty).to(tl.float32)
    b_weight = tl.load(p_weight + o_d, mask=m_d, other=0.0).to(tl.float32)
    tl.store(p_out + i_row * DIM + o_d, (b_x * b_weight).to(p_out.dtype.element_ty), mask=m_d)


@triton.jit
def gate_kernel(p_out, p_x, x_stride, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, DIM / BLOCK): SwiGLU (Shazeer 2020), the first DIM numbers through SiLU, times the second DIM."""
    i_row = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_d = o_d < DIM
    p_row = p_x + i_row * x_stride + o_d
    b_gate = tl.load(p_row, mask=m_d, other=0.0).to(tl.float32)
    b_up = tl.load(p_row + DIM, mask=m_d, other=0.0).to(tl.float32)
    b_gate = (b_gate / (1.0 + tl.exp(-b_gate))).to(p_out.dtype.element_ty).to(tl.float32)
    tl.store(p_out + i_row * DIM + o_d, (b_gate * b_up).to(p_out.dtype.element_ty), mask=m_d)


@triton.jit
def rounded_like(b_x, p_x):
    """Through the dtype of what ``p_x`` points to, as fp32."""
    return b_x.to(p_x.dtype.element_ty).to(tl.float32)


@triton.jit
def weight_of(p_query_weight, p_key_weight, m_query, o_d, m_d):
    """[heads, numbers of a head]: a query's weights or a key's."""
    b_query = tl.load(p_query_weight + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]
    b_key = tl.load(p_key_weight + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]
    return tl.where(m_query[:, None], b_query, b_key)


@triton.jit(do_not_specialize_on_alignment=["p_slots"])
def rotate_store_kernel(
    p_x,
    p_cos,
    p_sin,
    p_query_weight,
    p_key_weight,
    p_key_cache,
    p_value_cache,
    p_key_scales,
    p_value_scales,
    p_slots,
    eps,
    x_stride,
    angle_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    STRIDE_BLOCK: tl.constexpr,
    STRIDE_SLOT: tl.constexpr,
    STRIDE_HEAD: tl.constexpr,
    NORMED: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Grid (tokens, heads of all three / BLOCK_HEADS). A token's row is its queries, keys and values. Queries and keys
    are normed head by head if NORMED and rotated (Su et al. 2021, halves paired as in GPT-NeoX); queries stay in the
    row, keys and values go to the token's slot, of which -1 is none; SCALED: in eight bits, each head with its scale.
    HALF is a power of two, at least HEAD_DIM / 2."""
    i_token = tl.program_id(0).to(tl.int64)
    o_head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    o_d = tl.arange(0, HALF)
    m_d = o_d < HEAD_DIM // 2
    m_x = (o_head < HEADS + 2 * KV_HEADS)[:, None] & m_d[None, :]
    m_query = o_head < HEADS
    p_low = p_x + i_token * x_stride + o_head[:, None] * HEAD_DIM + o_d[None, :]
    b_low = tl.load(p_low, mask=m_x, other=0.0).to(tl.float32)
    b_high = tl.load(p_low + HEAD_DIM // 2, mask=m_x, other=0.0).to(tl.float32)
    b_a, b_b = b_low, b_high
    if NORMED:
        b_scale = tl.rsqrt((tl.sum(b_a * b_a, 1) + tl.sum(b_b * b_b, 1)) / HEAD_DIM + eps)[:, None]
        b_a = rounded_like(b_a * b_scale, p_x) * weight_of(p_query_weight, p_key_weight, m_query, o_d, m_d)
        o_high = o_d + HEAD_DIM // 2
        b_b = rounded_like(b_b * b_scale, p_x) * weight_of(p_query_weight, p_key_weight, m_query, o_high, m_d)
        b_a, b_b = rounded_like(b_a, p_x), rounded_like(b_b, p_x)
    p_angle = i_token * angle_stride + o_d
    b_cos = tl.load(p_cos + p_angle, mask=m_d, other=0.0).to(tl.float32)[None, :]
    b_sin = tl.load(p_sin + p_angle, mask=m_d, other=0.0).to(tl.float32)[None, :]
    b_cos_high = tl.load(p_cos + p_angle + HEAD_DIM // 2, mask=m_d, other=0.0).to(tl.float32)[None, :]
    b_sin_high = tl.load(p_sin + p_angle + HEAD_DIM // 2, mask=m_d, other=0.0).to(tl.float32)[None, :]
    m_turned = (o_head < HEADS + KV_HEADS)[:, None]
    b_turned = rounded_like(b_a * b_cos, p_x) - rounded_like(b_b * b_sin, p_x)
    b_low = tl.where(m_turned, b_turned, b_low).to(p_x.dtype.element_ty)
    b_turned = rounded_like(b_b * b_cos_high, p_x) + rounded_like(b_a * b_sin_high, p_x)
    b_high = tl.where(m_turned, b_turned, b_high).to(p_x.dtype.element_ty)

    m_q = m_x & m_query[:, None]
    tl.store(p_low, b_low, mask=m_q)
    tl.store(p_low + HEAD_DIM // 2, b_high, mask=m_q)
    i_slot = tl.load(p_slots + i_token)
    i_cache = i_slot // BLOCK_SIZE * STRIDE_BLOCK + i_slot % BLOCK_SIZE * STRIDE_SLOT
    n_stored = tl.where(i_slot >= 0, KV_HEADS, 0)
    m_key_head = (o_head >= HEADS) & (o_head < HEADS + n_stored)
    m_value_head = (o_head >= HEADS + KV_HEADS) & (o_head < HEADS + KV_HEADS + n_stored)
    if SCALED:
        b_a, b_b = b_low.to(tl.float32), b_high.to(tl.float32)
        b_scale, b_inverse = scale_of(tl.maximum(tl.max(tl.abs(b_a), 1), tl.max(tl.abs(b_b), 1)), p_key_cache)
        b_low = in_eight_bits(b_a * b_inverse[:, None], p_key_cache)
        b_high = in_eight_bits(b_b * b_inverse[:, None], p_key_cache)
        o_scale = (i_slot // BLOCK_SIZE * KV_HEADS + o_head - HEADS) * BLOCK_SIZE + i_slot % BLOCK_SIZE
        tl.store(p_key_scales + o_scale, b_scale, mask=m_key_head)
        tl.store(p_value_scales + o_scale - KV_HEADS * BLOCK_SIZE, b_scale, mask=m_value_head)
    o_kv = (o_head - HEADS)[:, None] * STRIDE_HEAD + o_d[None, :]
    m_k = m_x & m_key_head[:, None]
    tl.store(p_key_cache + i_cache + o_kv, b_low, mask=m_k)
    tl.store(p_key_cache + i_cache + o_kv + HEAD_DIM // 2, b_high, mask=m_k)
    o_kv = o_kv - KV_HEADS * STRIDE_HEAD
    m_v = m_x & m_value_head[:, None]
    tl.store(p_value_cache + i_cache + o_kv, b_low, mask=m_v)
    tl.store(p_value_cache + i_cache + o_kv + HEAD_DIM // 2, b_high, mask=m_v)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight`` of [rows, dim]."""
    return _norm(x, None, weight, eps)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x += y``, and the norm of that."""
    return _norm(x, y, weight, eps)


def _norm(x: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    rows, dim = x.shape
    out = x.new_empty(rows, dim)
    if rows == 0:
        return out
    block = power_of_2(dim)
    with on_device(x):
        norm_kernel[(rows,)](
            out, x, y, weight, eps, x.stride(0), 0 if y is None else y.stride(0),
            DIM=dim, HAS_DELTA=y is not None, BLOCK=block, num_warps=norm_warps(block), **COMPILED,
        )  # fmt: skip
    return out


def norm_warps(block: int) -> int:
    return min(max(4 * block // AT_ONCE, 1), 16)


def gate(x: Tensor) -> Tensor:
    """``silu(x[:, :dim]) * x[:, dim:]`` of [rows, 2 * dim]."""
    rows, dim = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, dim)
    if rows == 0:
        return out
    block = min(AT_ONCE // 2, power_of_2(dim))
    with on_device(x):
        gate_kernel[(rows, triton.cdiv(dim, block))](out, x, x.stride(0), DIM=dim, BLOCK=block, **COMPILED)
    return out


def rotate_store(
    x: Tensor,
    heads: tuple[int, int],
    angles: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
    caches: tuple[Tensor, Tensor],
    slot_mapping: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Rotate queries in place, and put keys, rotated, and values at their slots; heads of queries and keys are normed
    first where there are ``weights`` for the two.

    Args:
        x: [tokens, at least (heads + 2 * kv_heads) * dim]: what a merged projection gives.
        angles: cosines and sines, [tokens, dim], with equal strides.
        caches: keys and values, as ``store_kv`` takes them.
        slot_mapping: int64 [tokens]; -1 stores nothing.
        scales: beside caches of eight bits, as ``store_kv`` takes them.
    """
    tokens, (query_heads, kv_heads) = x.shape[0], heads
    if tokens == 0:
        return
    (cos, sin), (keys, values) = angles, caches
    check_eight_bits(keys.dtype, keys.device)
    constants = rotate_constants(heads, keys, normed=weights is not None, scaled=scales is not None)
    query_weight, key_weight = weights or (None, None)
    grid = tokens, triton.cdiv(query_heads + 2 * kv_heads, constants["BLOCK_HEADS"])
    with on_device(x):
        rotate_store_kernel[grid](
            x, cos, sin, query_weight, key_weight, keys, values, *(scales or (None, None)), slot_mapping.contiguous(),
            eps, x.stride(0), cos.stride(0), **constants, **COMPILED,
        )  # fmt: skip


def rotate_constants(heads: tuple[int, int], cache: Tensor, *, normed: bool, scaled: bool) -> dict[str, int]:
    """The constant arguments of ``rotate_store_kernel`` by name."""
    _, block_size, kv_heads, head_dim = cache.shape
    block_stride, slot_stride, head_stride, _ = cache.stride()
    half = power_of_2(head_dim // 2)
    return {
        "HEADS": heads[0],
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": block_size,
        "STRIDE_BLOCK": block_stride,
        "STRIDE_SLOT": slot_stride,
        "STRIDE_HEAD": head_stride,
        "NORMED": normed,
        "SCALED": scaled,
        "BLOCK_HEADS": min(power_of_2(heads[0] + 2 * kv_heads), max(1, AT_ONCE // (2 * half))),
        "HALF": half,
    }
