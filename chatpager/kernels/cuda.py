"""Paged attention on a GPU: one launch of decode or extend, and one of merge where contexts were split; where rows
share a prefix, one more for that.

Decode is planned on the device by a launch before the first layer's; the other layers of a step find its plan."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from chatpager.kernels.arguments import EIGHT_BITS, AttentionCall, SharedPrefix
from chatpager.kernels.configurations import Tiling
from chatpager.kernels.decode import decode_kernel
from chatpager.kernels.extend import extend_kernel
from chatpager.kernels.heuristics import (
    Splits,
    decode_splits,
    decode_tiling,
    extend_splits,
    extend_tiling,
    power_of_2,
    suffix_splits,
)
from chatpager.kernels.merge import merge_kernel
from chatpager.kernels.planner import ITEM_WORDS, plan_kernel
from chatpager.kernels.prefix import prefix_kernel
from chatpager.kernels.variants import Variant, merge_constants

LOG2E = math.log2(math.e)

INTERPRETED = not isinstance(decode_kernel, JITFunction)
"""Whether TRITON_INTERPRET was set when the kernels were defined: they then run on CPU tensors, slowly."""

SERVED = (torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16)
"""The interpreter multiplies bfloat16 wrongly and says nothing, so there it is refused."""


COMPILED = {"enable_fp_fusion": True}
"""Said aloud, since triton's default is about to change."""


def attend(call: AttentionCall, splits: Splits | None = None, tiling: Tiling | None = None) -> None:
    """Fill ``call.out`` and ``call.lse``; ``splits`` and ``tiling`` override the plan, for tests and measurements.

    Raises:
        TypeError: a dtype the kernels do not serve.
    """
    if call.query.dtype not in SERVED:
        raise TypeError(f"query must be a tensor of {' or '.join(map(str, SERVED))} here, got {call.query.dtype}")
    check_eight_bits(call.key_cache.dtype, call.query.device)
    if call.query.shape[0] == 0:
        return
    with on_device(call.query):
        if call.query_start is None:
            _decode(call, splits, tiling or tiling_of(call))
        else:
            _extend(call, call.query_start, splits, tiling or tiling_of(call))


def tiling_of(call: AttentionCall) -> Tiling:
    """What is used where nothing is overridden."""
    if call.query_start is not None:
        return _extend_tiling(call, call.max_query_len)
    _, shared_memory = _device_limits(call.query.device)
    kinds = call.query.element_size(), shared_memory, call.key_scales is not None, target_of(call.query.device)
    return decode_tiling(call.head_dim, call.group, *kinds)


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@lru_cache
def target_of(device: torch.device) -> str:
    """As the table of configurations has it; the interpreter is none of those."""
    if device.type == "cpu":
        return ""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@lru_cache
def _device_limits(device: torch.device) -> tuple[int, int]:
    """Processors, and bytes of shared memory one program may use; the interpreter pretends to be a small Hopper."""
    if device.type == "cpu":
        return 4, 232_448
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return properties.multi_processor_count, int(shared)


SHORT_FLOATS_SINCE = 8, 9
"""The compute capability of NVIDIA's first cards that convert float8_e4m3fn."""


@lru_cache
def served_eight_bits(device: torch.device) -> tuple[torch.dtype, ...]:
    """What caches may be beside scales on this device; the interpreter converts all of them. AMD's have short floats
    of another kind."""
    is_new = device.type == "cpu" or (
        torch.version.hip is None and torch.cuda.get_device_capability(device) >= SHORT_FLOATS_SINCE
    )
    return tuple(kind for kind in EIGHT_BITS if is_new or not kind.is_floating_point)


def check_eight_bits(dtype: torch.dtype, device: torch.device) -> None:
    """Raises TypeError: the device cannot convert what the caches hold."""
    if dtype in EIGHT_BITS and dtype not in served_eight_bits(device):
        raise TypeError(f"key_cache is {dtype}, which {device} cannot convert; torch.int8 is served there")


class Plan(NamedTuple):
    """What ``plan_kernel`` leaves: the list of ``places`` pieces, and each row's first and number of them."""

    items: Tensor
    rows: Tensor
    places: int


def _decode(call: AttentionCall, splits: Splits | None, tiling: Tiling) -> None:
    processors, _ = _device_limits(call.query.device)
    batch = call.query.shape[0]
    if splits is None and call.shared is not None:
        splits = suffix_splits(call.kv_heads, processors)
    splits = splits or decode_splits(batch, call.kv_heads, _longest_span(call, tiling), processors)
    if splits.count == 1 and call.shared is None:
        _launch(call, decode_kernel, tiling, None, (call.kv_heads, batch), {"p_items": None})
        return
    plan = _planned(call, tiling, splits)
    n_shared = 0 if call.shared is None else _prefix_splits(call, call.shared)
    parts = _partials(call, plan.places + n_shared * batch)
    if call.shared is not None:
        _prefix(call, call.shared, parts, n_shared, plan.places)
    _launch(call, decode_kernel, tiling, parts, (call.kv_heads, plan.places), {"p_items": plan.items})
    _merge(call, parts, plan.rows, n_shared, plan.places)


def _planned(call: AttentionCall, tiling: Tiling, splits: Splits) -> Plan:
    """The plan of these rows: an earlier layer's of the same step, where the caller hands over ``plans``."""
    batch = call.query.shape[0]
    shared = None if call.shared is None else call.shared.of_row
    key = (batch, call.sliding_window, tiling.tile, splits, shared is not None)
    if call.plans is not None and key in call.plans:
        return call.plans[key]
    places = batch + splits.count
    take, device = call.workspace.take, call.query.device
    kind = f"{call.sliding_window} {shared is not None}"
    plan = Plan(
        take(f"items {kind}", (places, ITEM_WORDS.value), torch.int32, device),
        take(f"rows {kind}", (batch, 2), torch.int32, device),
        places,
    )
    plan_kernel[(batch,)](
        plan.items, plan.rows, call.context_lens.contiguous(), shared, batch, call.sliding_window or 0,
        splits.chunk, splits.count, places,
        HAS_WINDOW=call.sliding_window is not None, SHARED=shared is not None, TILE=tiling.tile,
        BATCH=power_of_2(batch), WIDTH=64,
        **COMPILED,
    )  # fmt: skip
    if call.plans is not None:
        call.plans[key] = plan
    return plan


def _extend(call: AttentionCall, query_start: Tensor, splits: Splits | None, tiling: Tiling) -> None:
    processors, _ = _device_limits(call.query.device)
    tokens, batch = call.query.shape[0], call.context_lens.shape[0]
    blocks = tokens // (tiling.rows // call.group) + batch
    splits = splits or extend_splits(blocks * call.kv_heads, _longest_span(call, tiling), tiling.tile, processors)
    parts = _partials(call, splits.count * tokens) if splits.count > 1 else None
    extra = {
        "p_start": query_start.contiguous(), "chunk": splits.chunk, "n_splits": splits.count, "batch": batch,
        "tokens": tokens,
    }  # fmt: skip
    _launch(call, extend_kernel, tiling, parts, (call.kv_heads, blocks, splits.count), extra)
    if parts:
        _merge(call, parts, None, splits.count)


def _extend_tiling(call: AttentionCall, queries: int) -> Tiling:
    _, shared_memory = _device_limits(call.query.device)
    kinds = call.query.element_size(), queries, shared_memory, call.key_scales is not None
    return extend_tiling(call.head_dim, call.group, *kinds, target_of(call.query.device))


def _prefix_blocks(call: AttentionCall, shared: SharedPrefix, tiling: Tiling) -> int:
    return len(shared.members) // (tiling.rows // call.group) + len(shared.lengths)


def _prefix_splits(call: AttentionCall, shared: SharedPrefix) -> int:
    """Pieces that a shared prefix is cut into, each group's into as many."""
    tiling, (processors, _) = _extend_tiling(call, len(shared.members)), _device_limits(call.query.device)
    programs = _prefix_blocks(call, shared, tiling) * call.kv_heads
    return extend_splits(programs, shared.longest, tiling.tile, processors).count


def _prefix(call: AttentionCall, shared: SharedPrefix, parts: Partials, n_splits: int, first_slot: int) -> None:
    """What rows share, to the partials from ``first_slot`` on."""
    tiling = _extend_tiling(call, len(shared.members))
    query, tables = call.query, _rows_of(call.block_tables)
    prefix_kernel[(call.kv_heads, _prefix_blocks(call, shared, tiling), n_splits)](
        p_part_out=parts.out,
        p_part_lse=parts.lse,
        p_query=query,
        p_key=call.key_cache,
        p_value=call.value_cache,
        p_key_scales=call.key_scales,
        p_value_scales=call.value_scales,
        p_tables=tables,
        p_starts=shared.starts,
        p_members=shared.members,
        p_lengths=shared.lengths,
        **_scoring(call),
        n_splits=n_splits,
        groups=len(shared.lengths),
        first_slot=first_slot,
        query_stride_token=query.stride(0),
        query_stride_head=query.stride(1),
        table_stride=tables.stride(0),
        **Variant.of(call, tiling, split=True).prefix_constants(),
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        **COMPILED,
    )


def _rows_of(tables: Tensor) -> Tensor:
    """Block tables whose entries lie side by side."""
    return tables if tables.stride(1) == 1 else tables.contiguous()


def _scoring(call: AttentionCall) -> dict[str, Any]:
    """How products become scores, in base 2."""
    return {
        "p_sinks": None if call.sinks is None else call.sinks.contiguous(),
        "score_scale": call.scale * LOG2E * (2 / call.softcap if call.softcap else 1),
        "softcap": (call.softcap or 0.0) * LOG2E,
    }


def _longest_span(call: AttentionCall, tiling: Tiling) -> int:
    """Tokens one program may walk over: a context, or a window and the queries that slide it."""
    if call.sliding_window is None:
        return call.max_context_len
    return min(call.max_context_len, call.sliding_window + tiling.rows + tiling.tile)


class Partials(NamedTuple):
    """Results of pieces: [slots, heads, head_dim] and base-2 log-sum-exp [slots, heads], both fp32."""

    out: Tensor
    lse: Tensor


def _partials(call: AttentionCall, slots: int) -> Partials:
    _, heads, head_dim = call.query.shape
    take, device = call.workspace.take, call.query.device
    return Partials(
        take("partial_out", (slots, heads, head_dim), torch.float32, device),
        take("partial_lse", (slots, heads), torch.float32, device),
    )


def _launch(
    call: AttentionCall,
    kernel: Any,
    tiling: Tiling,
    parts: Partials | None,
    grid: tuple[int, ...],
    extra: dict[str, Any],
) -> None:
    query, tables = call.query, _rows_of(call.block_tables)
    variant = Variant.of(call, tiling, split=parts is not None)
    kernel[grid](
        p_out=call.out,
        p_lse=call.lse,
        p_part_out=parts.out if parts else None,
        p_part_lse=parts.lse if parts else None,
        p_query=query,
        p_key=call.key_cache,
        p_value=call.value_cache,
        p_key_scales=call.key_scales,
        p_value_scales=call.value_scales,
        p_tables=tables,
        p_context=call.context_lens.contiguous(),
        **_scoring(call),
        window=call.sliding_window or 0,
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


def _merge(call: AttentionCall, parts: Partials, rows: Tensor | None, n_splits: int, first_slot: int = 0) -> None:
    """``rows``: of a plan, beside ``n_splits`` slots of each row's shared prefix from ``first_slot`` on; else every
    token has ``n_splits`` slots."""
    tokens, heads, head_dim = call.out.shape
    shared = None if call.shared is None else call.shared.of_row
    merge_kernel[(tokens, heads)](
        call.out,
        call.lse,
        parts.out,
        parts.lse,
        rows,
        shared,
        n_splits,
        tokens,
        first_slot,
        call.out.stride(0),
        call.out.stride(1),
        **merge_constants(heads, head_dim, rows is not None, call.lse is not None, shared is not None),
        **COMPILED,
    )
