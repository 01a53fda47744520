"""What a call of paged attention may look like, checked once for every backend."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from chatpager.kernels.workspace import Workspace

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EIGHT_BITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""What keys and values may be kept as beside scales, and the largest number of each."""


class SharedPrefix(NamedTuple):
    """Rows of decode whose contexts begin with the same tokens in the same pages, in groups; rows may be in none.

    ====================  =================================================================================
    starts                int32 [groups + 1]: group g is rows ``members[starts[g]]`` to before ``starts[g + 1]``
    members               int32 [rows that are in a group]
    lengths               int32 [groups]: tokens that the group shares, above 0 and no more than any context of it
    of_row                int32 [batch]: the same for every row, 0 for one in no group
    longest               no length is larger; it only sizes the work
    ====================  =================================================================================
    """

    starts: Tensor
    members: Tensor
    lengths: Tensor
    of_row: Tensor
    longest: int


class Options(TypedDict, total=False):
    """What a call may say beyond its positional arguments; None is the same as nothing."""

    out: Tensor | None
    scale: float | None
    query_start: Tensor | None
    max_query_len: int | None
    sliding_window: int | None
    softcap: float | None
    sinks: Tensor | None
    workspace: Workspace | None
    plans: dict[Any, Any] | None
    key_scales: Tensor | None
    value_scales: Tensor | None
    shared: SharedPrefix | None


class AttentionCall(NamedTuple):
    """A checked call; the fields mean what ``paged_attention.forward`` says.

    ``lse`` is the tensor to fill with the log-sum-exp of every row, or None when nobody asked; ``group`` the query
    heads that share one KV head.
    """

    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    max_context_len: int
    out: Tensor
    lse: Tensor | None
    scale: float
    query_start: Tensor | None
    max_query_len: int
    sliding_window: int | None
    softcap: float | None
    sinks: Tensor | None
    workspace: Workspace
    kv_heads: int
    group: int
    head_dim: int
    block_size: int
    plans: dict[Any, Any] | None = None
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    shared: SharedPrefix | None = None


def check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    block_size: int,
    max_context_len: int,
    *,
    return_lse: bool,
    **options: Unpack[Options],
) -> AttentionCall:
    """Check shapes, dtypes and devices; values on the device are not looked at, so nothing waits for it.

    Raises:
        TypeError: an argument is not a tensor, or has a dtype that is not served.
        ValueError: a shape, stride, device or number does not fit the others.
    """
    query_start, sinks, out = options.get("query_start"), options.get("sinks"), options.get("out")
    scales = options.get("key_scales"), options.get("value_scales")
    _check_tensors(query, key_cache, value_cache, block_tables, context_lens, query_start, sinks, out, scales)
    _check_caches(query, key_cache, value_cache, block_size)
    check_scales(key_cache, value_cache, *scales)
    _check_shared(context_lens, options)
    _check_rows(query, block_tables, context_lens, query_start)
    _check_like_query(query, sinks, out)
    _check_numbers(max_context_len, options)
    tokens, heads, head_dim = query.shape
    scale, longest = options.get("scale"), options.get("max_query_len")
    lse_dtype = torch.promote_types(query.dtype, torch.float32)
    return AttentionCall(
        query=query if query.stride(2) == 1 else query.contiguous(),  # torch's fused attention does not ask
        key_cache=key_cache,
        value_cache=value_cache,
        block_tables=block_tables,
        context_lens=context_lens,
        max_context_len=max_context_len,
        out=torch.empty(query.shape, dtype=query.dtype, device=query.device) if out is None else out,
        lse=torch.empty(tokens, heads, dtype=lse_dtype, device=query.device) if return_lse else None,
        scale=head_dim**-0.5 if scale is None else scale,
        query_start=query_start,
        max_query_len=tokens if longest is None else longest,
        sliding_window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=sinks,
        workspace=options.get("workspace") or Workspace(),
        kv_heads=key_cache.shape[2],
        group=heads // key_cache.shape[2],
        head_dim=head_dim,
        block_size=block_size,
        plans=options.get("plans"),
        key_scales=options.get("key_scales"),
        value_scales=options.get("value_scales"),
        shared=options.get("shared"),
    )


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _check_tensors(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_start: Tensor | None,
    sinks: Tensor | None,
    out: Tensor | None,
    scales: tuple[Tensor | None, Tensor | None],
) -> None:
    if not isinstance(query, Tensor) or query.dtype not in DTYPES:
        raise TypeError(f"query must be a tensor of {DTYPES}, got {_kind(query)}")
    if query.device.type not in ("cpu", "cuda"):
        raise ValueError(f"query is on {query.device}; only the CPU and CUDA devices are served")
    same, index = (query.dtype,), (torch.int32,)
    kept = same if scales == (None, None) else tuple(EIGHT_BITS)
    for name, tensor, dtypes, ndim in (
        ("query", query, same, 3),
        ("key_cache", key_cache, kept, 4),
        ("value_cache", value_cache, kept, 4),
        ("block_tables", block_tables, index, 2),
        ("context_lens", context_lens, index, 1),
        ("query_start", query_start, index, 1),
        ("sinks", sinks, DTYPES, 1),
        ("out", out, same, 3),
    ):
        if tensor is None and name in ("query_start", "sinks", "out"):
            continue
        if not isinstance(tensor, Tensor) or tensor.dtype not in dtypes:
            raise TypeError(f"{name} must be a tensor of {' or '.join(map(str, dtypes))}, got {_kind(tensor)}")
        if tensor.ndim != ndim:
            raise ValueError(f"{name} must have {ndim} dimensions, got shape {_shape(tensor)}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, but the query is on {query.device}")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _check_caches(query: Tensor, key_cache: Tensor, value_cache: Tensor, block_size: int) -> None:
    if key_cache.shape != value_cache.shape or key_cache.stride() != value_cache.stride():
        raise ValueError(
            f"key_cache and value_cache must have one shape and one layout, got {_shape(key_cache)} with strides "
            f"{key_cache.stride()} and {_shape(value_cache)} with strides {value_cache.stride()}"
        )
    if block_size % 8 or block_size < 8:
        raise ValueError(f"block_size must be a multiple of 8, got {block_size}")
    _, slots, kv_heads, head_dim = key_cache.shape
    if slots != block_size:
        raise ValueError(f"block_size is {block_size}, but key_cache has shape {_shape(key_cache)}")
    if query.shape[2] != head_dim or kv_heads == 0 or query.shape[1] % kv_heads or query.shape[1] == 0:
        raise ValueError(
            f"query {_shape(query)} and key_cache {_shape(key_cache)} must agree in the head dimension, "
            f"and the query's heads must be a multiple of the cache's"
        )
    if key_cache.stride(3) != 1:
        raise ValueError(f"the caches must have a last stride of 1, got strides {key_cache.stride()}")


def check_scales(
    key_cache: Tensor, value_cache: Tensor, key_scales: Tensor | None, value_scales: Tensor | None
) -> None:
    """Raises TypeError or ValueError: scales do not fit caches of eight bits, or one of the two is not there."""
    if key_scales is None and value_scales is None:
        return
    blocks, block_size, kv_heads, _ = key_cache.shape
    for name, scales, cache in (("key_scales", key_scales, key_cache), ("value_scales", value_scales, value_cache)):
        if not isinstance(scales, Tensor) or scales.dtype != torch.float32:
            raise TypeError(f"{name} must be a tensor of torch.float32, as the other scales, got {_kind(scales)}")
        if scales.shape != (blocks, kv_heads, block_size) or not scales.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous, of shape [num_blocks, num_kv_heads, block_size] = "
                f"{[blocks, kv_heads, block_size]}, got {_shape(scales)} with strides {scales.stride()}"
            )
        if scales.device != cache.device:
            raise ValueError(f"{name} is on {scales.device}, but its cache is on {cache.device}")
    if key_cache.dtype != value_cache.dtype:
        raise TypeError(f"value_cache is {value_cache.dtype}, but key_cache is {key_cache.dtype}")


def _check_shared(context_lens: Tensor, options: Options) -> None:
    shared = options.get("shared")
    if shared is None:
        return
    if options.get("query_start") is not None or options.get("sliding_window") is not None:
        raise ValueError("shared: prefixes are shared in decode without a sliding_window")
    for name, tensor in zip(shared._fields, shared[:4], strict=False):
        if tensor.dtype != torch.int32 or tensor.ndim != 1 or not tensor.is_contiguous():
            raise TypeError(f"shared.{name} must be contiguous int32 of one dimension, got {_kind(tensor)}")
        if tensor.device != context_lens.device:
            raise ValueError(f"shared.{name} is on {tensor.device}, but context_lens is on {context_lens.device}")
    if len(shared.starts) != len(shared.lengths) + 1 or len(shared.of_row) != len(context_lens):
        raise ValueError(
            f"shared must have one more start than lengths, and an entry of_row for each of {len(context_lens)} rows, "
            f"got {len(shared.starts)}, {len(shared.lengths)} and {len(shared.of_row)}"
        )


def _check_rows(query: Tensor, block_tables: Tensor, context_lens: Tensor, query_start: Tensor | None) -> None:
    batch = context_lens.shape[0]
    if block_tables.shape[0] != batch:
        raise ValueError(f"block_tables has shape {_shape(block_tables)}, but context_lens has {batch} rows")
    if query_start is None and query.shape[0] != batch:
        raise ValueError(
            f"query has {query.shape[0]} rows, but context_lens has {batch}; several tokens a row need query_start"
        )
    if query_start is not None and query_start.shape[0] != batch + 1:
        raise ValueError(f"query_start must have {batch + 1} entries for {batch} rows, got {query_start.shape[0]}")


def _check_like_query(query: Tensor, sinks: Tensor | None, out: Tensor | None) -> None:
    if sinks is not None and sinks.shape != query.shape[1:2]:
        raise ValueError(f"sinks has shape {_shape(sinks)}, but the query has {query.shape[1]} heads")
    if out is not None and (out.shape != query.shape or out.stride(-1) != 1):
        raise ValueError(
            f"out must have the query's shape {_shape(query)} and a last stride of 1, "
            f"got {_shape(out)} with strides {out.stride()}"
        )


def _check_numbers(max_context_len: int, options: Options) -> None:
    for name, value, low in (
        ("max_context_len", max_context_len, 0),
        ("max_query_len", options.get("max_query_len"), 0),
        ("sliding_window", options.get("sliding_window"), 1),
    ):
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    softcap = options.get("softcap")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}")
