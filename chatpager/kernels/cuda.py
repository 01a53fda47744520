"""Paged attention on a GPU: one launch of decode or extend, and one of merge where contexts were split."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.decode import decode_kernel
from chatpager.kernels.extend import extend_kernel
from chatpager.kernels.heuristics import Splits, Tiling, decode_splits, decode_tiling, extend_splits, extend_tiling
from chatpager.kernels.merge import merge_kernel
from chatpager.kernels.variants import Variant, merge_constants

LOG2E = math.log2(math.e)

INTERPRETED = not isinstance(decode_kernel, JITFunction)
"""Whether TRITON_INTERPRET was set when the kernels were defined: they then run on CPU tensors, slowly."""

SERVED = (torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16)
"""The interpreter multiplies bfloat16 wrongly and says nothing, so there it is refused."""


COMPILED = {"enable_fp_fusion": True}
"""Said aloud, since triton's default is about to change."""


def attend(call: AttentionCall, splits: Splits | None = None) -> None:
    """Fill ``call.out`` and ``call.lse``; ``splits`` overrides the plan, for tests and measurements.

    Raises:
        TypeError: a dtype the kernels do not serve.
    """
    if call.query.dtype not in SERVED:
        raise TypeError(f"query must be a tensor of {' or '.join(map(str, SERVED))} here, got {call.query.dtype}")
    if call.query.shape[0] == 0:
        return
    with on_device(call.query):
        if call.query_start is None:
            _decode(call, splits)
        else:
            _extend(call, call.query_start, splits)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@lru_cache
def _device_limits(device: torch.device) -> tuple[int, int]:
    """Processors, and bytes of shared memory one program may use; the interpreter pretends to be a small Hopper."""
    if device.type == "cpu":
        return 4, 232_448
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return properties.multi_processor_count, int(shared)


def _decode(call: AttentionCall, splits: Splits | None) -> None:
    processors, shared = _device_limits(call.query.device)
    batch, _, head_dim = call.query.shape
    tiling = decode_tiling(head_dim, call.group, call.query.element_size(), shared)
    splits = splits or decode_splits(batch * call.kv_heads, _longest_span(call, tiling), tiling.tile, processors)
    _launch(call, decode_kernel, tiling, splits, batch, {})


def _extend(call: AttentionCall, query_start: Tensor, splits: Splits | None) -> None:
    processors, shared = _device_limits(call.query.device)
    tokens, _, head_dim = call.query.shape
    batch = call.context_lens.shape[0]
    tiling = extend_tiling(head_dim, call.group, call.query.element_size(), call.max_query_len, shared)
    blocks = tokens // (tiling.rows // call.group) + batch
    splits = splits or extend_splits(blocks * call.kv_heads, _longest_span(call, tiling), tiling.tile, processors)
    _launch(call, extend_kernel, tiling, splits, blocks, {"p_start": query_start.contiguous(), "batch": batch})


def _longest_span(call: AttentionCall, tiling: Tiling) -> int:
    """Tokens one program may walk over: a context, or a window and the queries that slide it."""
    if call.sliding_window is None:
        return call.max_context_len
    return min(call.max_context_len, call.sliding_window + tiling.rows + tiling.tile)


def _launch(
    call: AttentionCall, kernel: Any, tiling: Tiling, splits: Splits, blocks: int, extra: dict[str, Any]
) -> None:
    query = call.query
    tables = call.block_tables if call.block_tables.stride(1) == 1 else call.block_tables.contiguous()
    tokens, heads, head_dim = query.shape
    out, lse = call.out, call.lse
    split = splits.count > 1
    if split:
        shape = (tokens, heads, splits.count)
        out = call.workspace.take("partial_out", (*shape, head_dim), torch.float32, query.device)
        lse = call.workspace.take("partial_lse", shape, torch.float32, query.device)
    variant = Variant.of(call, tiling, split)
    kernel[(call.kv_heads, blocks, splits.count)](
        p_out=out,
        p_lse=lse,
        p_query=query,
        p_key=call.key_cache,
        p_value=call.value_cache,
        p_tables=tables,
        p_context=call.context_lens.contiguous(),
        p_sinks=None if call.sinks is None else call.sinks.contiguous(),
        score_scale=call.scale * LOG2E * (2 / call.softcap if call.softcap else 1),
        softcap=(call.softcap or 0.0) * LOG2E,
        window=call.sliding_window or 0,
        chunk=splits.chunk,
        n_splits=splits.count,
        query_stride_token=query.stride(0),
        query_stride_head=query.stride(1),
        out_stride_token=call.out.stride(0),
        out_stride_head=call.out.stride(1),
        table_stride=tables.stride(0),
        **extra,
        **variant.constants(),
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        **COMPILED,
    )
    if split:
        assert lse is not None
        _merge(call, out, lse, splits.count)


def _merge(call: AttentionCall, partial_out: Tensor, partial_lse: Tensor, n_splits: int) -> None:
    tokens, heads, head_dim = call.out.shape
    merge_kernel[(tokens, heads)](
        call.out,
        call.lse,
        partial_out,
        partial_lse,
        n_splits,
        call.out.stride(0),
        call.out.stride(1),
        **merge_constants(heads, head_dim, n_splits, call.lse is not None),
        **COMPILED,
    )
