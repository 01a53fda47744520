"""Write new keys and values into their slots, and copy whole blocks when a shared one is about to be written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatpager.kernels import cpu_decode, cpu_eight_bits
from chatpager.kernels.arguments import EIGHT_BITS, check_scales


def store_kv(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Put token t's key and value at slot ``slot_mapping[t]``, which is ``block * block_size + offset``.

    Args:
        key, value: [tokens, num_kv_heads, head_dim]; slices of a fused projection are fine.
        key_cache, value_cache: [num_blocks, block_size, num_kv_heads, head_dim], both with one layout.
        slot_mapping: int64 [tokens]; -1 skips a token. No slot may appear twice: which token wins is undefined.
        scales: of keys and of values, float32 [num_blocks, num_kv_heads, block_size], for caches of int8 or
            float8_e4m3fn: every token's head is kept as whole or short numbers of eight bits, up to the type's
            largest, and the factor that makes them what they were. ``copy_blocks`` copies ``unsqueeze(-1)`` of
            scales as it does caches.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape, layout or device does not fit.
        IndexError: on a CPU, a slot is past the caches' end.
    """
    _check_store(key, value, key_cache, value_cache, slot_mapping, scales)
    if key.is_cuda:
        from chatpager.kernels import cuda_store  # triton is there on Linux only, and slow to import

        cuda_store.store_kv(key, value, key_cache, value_cache, slot_mapping, scales)
        return
    if scales is not None:
        cpu_eight_bits.store((key, value), (key_cache, value_cache), slot_mapping, scales)
        return
    if cpu_decode.store(key, value, key_cache, value_cache, slot_mapping):
        return
    if slot_mapping.numel() and int(slot_mapping.min()) < 0:
        kept = slot_mapping >= 0
        key, value, slot_mapping = key[kept], value[kept], slot_mapping[kept]
    block_size = key_cache.shape[1]
    for cache, new in ((key_cache, key), (value_cache, value)):
        if cache.stride(0) == block_size * cache.stride(1):
            cache.flatten(0, 1).index_copy_(0, slot_mapping, new)  # a view: block and slot are one dimension
        else:
            cache[slot_mapping // block_size, slot_mapping % block_size] = new


def copy_blocks(key_caches: Sequence[Tensor], value_caches: Sequence[Tensor], pairs: Tensor) -> None:
    """Copy block ``pairs[i, 0]`` to block ``pairs[i, 1]`` in every layer's caches.

    Args:
        key_caches, value_caches: one tensor a layer, each [num_blocks, block_size, num_kv_heads, head_dim].
        pairs: int64 [n, 2]. No destination may appear twice, nor be a source.

    Raises:
        TypeError: ``pairs`` is not int64.
        ValueError: shapes or devices do not fit.
    """
    if pairs.dtype != torch.int64:
        raise TypeError(f"pairs must be torch.int64, got {pairs.dtype}")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(key_caches) != len(value_caches):
        raise ValueError(
            f"pairs must have shape [n, 2] and both lists one length, got {list(pairs.shape)}, "
            f"{len(key_caches)} key caches and {len(value_caches)} value caches"
        )
    for cache in (*key_caches, *value_caches):
        if cache.ndim != 4 or cache.stride(3) != 1 or cache.device != pairs.device:
            raise ValueError(
                f"a cache must have 4 dimensions, a last stride of 1 and lie on {pairs.device} with pairs, "
                f"got {list(cache.shape)} with strides {cache.stride()} on {cache.device}"
            )
    if pairs.is_cuda:
        from chatpager.kernels import cuda_store

        cuda_store.copy_blocks(key_caches, value_caches, pairs)
        return
    source, target = pairs.unbind(1)
    for cache in (*key_caches, *value_caches):
        plain = cache.view(torch.int8) if cache.itemsize == 1 else cache  # torch does not index short floats
        plain.index_copy_(0, target, plain.index_select(0, source))


def _check_store(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    scales: tuple[Tensor, Tensor] | None,
) -> None:
    if slot_mapping.dtype != torch.int64:
        raise TypeError(f"slot_mapping must be torch.int64, got {slot_mapping.dtype}")
    named = {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache}
    for name, tensor in named.items():
        if scales is not None and name.endswith("cache"):
            if tensor.dtype not in EIGHT_BITS:
                raise TypeError(
                    f"{name} is {tensor.dtype}; beside scales it must be {' or '.join(map(str, EIGHT_BITS))}"
                )
        elif tensor.dtype != key.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, but key is {key.dtype}")
        if tensor.device != slot_mapping.device:
            raise ValueError(f"{name} is on {tensor.device}, but slot_mapping is on {slot_mapping.device}")
    layouts = {(tuple(cache.shape), cache.stride()) for cache in (key_cache, value_cache)}
    if key_cache.ndim != 4 or len(layouts) > 1 or key_cache.stride(3) != 1:
        raise ValueError(
            f"key_cache and value_cache must have 4 dimensions, one shape, one layout and a last stride of 1, "
            f"got shapes and strides {layouts}"
        )
    if scales is not None:
        check_scales(key_cache, value_cache, *scales)
    expected = (*slot_mapping.shape, *key_cache.shape[2:])
    if slot_mapping.ndim != 1 or key.shape != expected or value.shape != expected:
        raise ValueError(
            f"slot_mapping must have shape [tokens], key and value [tokens, num_kv_heads, head_dim] of the caches, "
            f"got {list(slot_mapping.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
