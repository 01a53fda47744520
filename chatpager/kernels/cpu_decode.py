"""Decode on the CPU where numba can be had: a call's numbers go into a table, and ``cpu_jit``, or ``cpu_extend_jit``
where it serves, reads pages in place."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from chatpager.kernels import cpu_linear
from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.cpu_code import Kernel, bits, kernel_of, parts_for

SERVED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""numba reads no float16, and nobody measures float64."""

# The places of a call's arguments in its table of int64: addresses, and strides in elements. ``cpu_tiles`` reads it.
(
    QUERY, QUERY_TOKEN, QUERY_HEAD, KEY, VALUE, BLOCK, SLOT, HEAD, TABLES, TABLE_ROW, TABLE_COLUMN, CONTEXTS, CONTEXT,
    OUT, OUT_TOKEN, OUT_HEAD, LSE, ROWS, KV_HEADS, GROUP, DIM, BLOCK_SIZE, WINDOW, PARTS, SCRATCH, WORDS, SCALE,
    SOFTCAP, BLOCKS, WRONG_BLOCK, NEXT, ENDED,
) = range(32)  # fmt: skip
# The places of a store's arguments; strides and the size of a head's row are in bytes.
(
    NEW_KEY, NEW_KEY_TOKEN, NEW_KEY_HEAD, NEW_VALUE, NEW_VALUE_TOKEN, NEW_VALUE_HEAD, KEYS, VALUES, TO_BLOCK, TO_SLOT,
    TO_HEAD, SLOTS, SLOTS_STEP, TOKENS, HEADS, ROW_BYTES, PAGE, ROOM, NEXT_TOKEN, WRONG,
) = range(20)  # fmt: skip


TILE = 64
"""Tokens that ``cpu_extend_jit`` packs at a time."""
STATE_WORDS = 32
"""A query's running maximum and partial sums of weights there, a register each."""


def kernel(name: str) -> Kernel | None:
    """One of ``cpu_jit``'s."""
    return kernel_of("cpu_jit", name)


def by_dots(dtype: torch.dtype, dim: int, softcap: float | None) -> bool:
    """Whether ``cpu_extend_jit`` serves: the processor multiplies bfloat16 itself."""
    return dtype is torch.bfloat16 and dim % 32 == 0 and not softcap and cpu_linear.has_dots()


def kernel_for(dtype: torch.dtype, dim: int, softcap: float | None) -> Kernel | None:
    """What computes a decode, compiled; None where nothing does."""
    found = kernel_of("cpu_extend_jit", "decode") if by_dots(dtype, dim, softcap) else None
    return found or (kernel(SERVED[dtype]) if dtype in SERVED else None)


def prepare(dtype: torch.dtype, dim: int) -> None:
    """Have the kernels that serve heads of ``dim`` numbers compiled."""
    if kernel_for(dtype, dim, None):
        kernel("store")
    if by_dots(dtype, dim, None):
        kernel_of("cpu_extend_jit", "extend")


def decode(call: AttentionCall, tokens: int, lse: Tensor) -> bool:
    """Fill ``call.out`` and ``lse`` [rows, kv_heads, group] of the rows that see any of ``tokens`` tokens in all.

    False if the dtype is not served here; nothing was written then.

    Raises:
        IndexError: a table's entry within a context is no block; what was written is of no use.
    """
    found = kernel_for(call.query.dtype, call.head_dim, call.softcap)
    if found is None:
        return False
    if not call.key_cache.shape[0]:
        raise IndexError("context_lens names tokens, but the caches have no blocks")
    read = 2 * tokens * call.kv_heads * call.head_dim * call.query.element_size()
    parts = parts_for(read)
    scratch = call.workspace.take("decode", (parts, part_words(call)), torch.float32, call.query.device)
    table = call_table(call, lse, parts, scratch)
    found.run(table, parts)
    if wrong := table[WRONG_BLOCK]:
        raise IndexError(f"block_tables names block {wrong}, but the caches have {call.key_cache.shape[0]}")
    return True


def part_words(call: AttentionCall) -> int:
    """Words of 4 bytes that a part of the work needs: whole cache lines, so that no two parts share one.

    They are offsets of two tiles (64 words), queries of a row and scores of a tile, and three states of a row (maxima,
    sums, outputs): of one that is whole, of one that began in an earlier part and of one that goes on in a later one.
    Behind them, where products of bfloat16 serve, what those need.
    """
    heads, dim = call.kv_heads * call.group, call.head_dim
    words = 64 + heads * (dim + 16) + 3 * heads * (dim + 2)
    more = dot_words(heads, dim) if by_dots(call.query.dtype, dim, call.softcap) else 0
    return -(-words // 16) * 16 + more


def dot_words(queries: int, dim: int) -> int:
    """Words, in whole cache lines, that products of bfloat16 need for ``queries`` queries: addresses of two tiles'
    keys and values and of the queries, a row of zeros, packed keys and values, scores of four queries, and states."""
    queries = -(-queries // 8) * 8
    return 8 * TILE + 2 * queries + dim // 2 + TILE * dim + 4 * TILE + queries * STATE_WORDS


def call_table(call: AttentionCall, lse: Tensor, parts: int, scratch: Tensor) -> array[int]:
    """In the order of the places; the block that is none and the two counters stand last."""
    return array("q", (
        call.query.data_ptr(), call.query.stride(0), call.query.stride(1),
        call.key_cache.data_ptr(), call.value_cache.data_ptr(), *call.key_cache.stride()[:3],
        call.block_tables.data_ptr(), *call.block_tables.stride(),
        call.context_lens.data_ptr(), call.context_lens.stride(0),
        call.out.data_ptr(), call.out.stride(0), call.out.stride(1), lse.data_ptr(),
        call.query.shape[0], call.kv_heads, call.group, call.head_dim, call.block_size, call.sliding_window or 0,
        parts, scratch.data_ptr(), scratch.stride(0), bits(call.scale), bits(call.softcap or 0.0),
        call.key_cache.shape[0], 0, 0, 0,
    ))  # fmt: skip


def store(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> bool:
    """Put tokens into their slots as ``store_kv`` says; False if that is not served, and nothing was written.

    Raises:
        IndexError: a slot is past the caches' end; nothing was written.
    """
    if key.dtype not in SERVED or key.stride(2) != 1 or value.stride(2) != 1:
        return False
    found = kernel("store")
    if found is None:
        return False
    table = store_table(key, value, key_cache, value_cache, slot_mapping)
    found.run(table)
    if table[WRONG] >= 0:
        raise IndexError(f"slot_mapping names slot {table[WRONG]}, but the caches have {table[ROOM]}")
    return True


def store_table(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> array[int]:
    """In the order of the places; the slot that is past the end stands last."""
    size = key.element_size()
    room = key_cache.shape[0] * key_cache.shape[1]
    return array("q", (
        key.data_ptr(), key.stride(0) * size, key.stride(1) * size,
        value.data_ptr(), value.stride(0) * size, value.stride(1) * size,
        key_cache.data_ptr(), value_cache.data_ptr(), *(size * stride for stride in key_cache.stride()[:3]),
        slot_mapping.data_ptr(), slot_mapping.stride(0),
        key.shape[0], key.shape[1], key.shape[2] * size, key_cache.shape[1], room, 0, -1,
    ))  # fmt: skip
