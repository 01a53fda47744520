"""The one seam to transformers: an attention function that reads and writes pages.

transformers' own model classes call the function registered here with packed tokens (batch 1). What a step needs comes
in as the keyword argument ``paged``, which the model passes through untouched; no mask is made, since the name is in
no mask registry. Sliding window, softcap and sinks arrive as the keyword arguments transformers gives its own backends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import torch
from transformers import AttentionInterface

from chatpager.engine.batch import Batch
from chatpager.engine.kv_cache import KVCache
from chatpager.kernels import paged_attention
from chatpager.kernels.store_kv import store_kv

ATTENTION = "chatpager"


@dataclass(frozen=True)
class PagedStep:
    """What the attention of every layer reads in one step."""

    batch: Batch
    cache: KVCache
    workspace: paged_attention.Workspace
    """Scratch memory that every layer and every step uses again."""
    plans: dict[Any, Any] = field(default_factory=dict)
    """How attention is cut on a GPU: the first layer decides, the others of this step find it."""


class Features(TypedDict, total=False):
    """What a model's attention may have beyond the plain one, as ``paged_attention.forward`` takes it."""

    scale: float | None
    sliding_window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


def paged_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    paged: PagedStep,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, head_dim], key and value [1, kv_heads, T, head_dim] -> [1, T, heads, head_dim]."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = paged.cache.keys[layer], paged.cache.values[layer]
    new = key[0].transpose(0, 1), value[0].transpose(0, 1)
    store_kv(*new, keys, values, paged.batch.slot_mapping, paged.cache.scales(layer))
    options: Features = {"scale": scaling, "sliding_window": sliding_window, "softcap": softcap, "sinks": s_aux}
    return attend(query[0].transpose(0, 1), layer, paged, **options).unsqueeze(0), None


def attend(rows: torch.Tensor, layer: int, paged: PagedStep, **features: Unpack[Features]) -> torch.Tensor:
    """Queries [T, heads, head_dim] over pages that have the step's own keys and values already -> the same shape."""
    batch = paged.batch
    keys, values = paged.cache.keys[layer], paged.cache.values[layer]
    key_scales, value_scales = paged.cache.scales(layer) or (None, None)
    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    n = batch.num_decodes
    if n:
        paged_attention.forward(
            rows[:n],
            keys,
            values,
            batch.block_tables[:n],
            batch.context_lens[:n],
            batch.block_size,
            batch.max_decode_context,
            out=out[:n],
            workspace=paged.workspace,
            key_scales=key_scales,
            value_scales=value_scales,
            plans=paged.plans,
            shared=batch.shared if features.get("sliding_window") is None else None,
            **features,
        )
    if n < batch.num_seqs:
        paged_attention.forward(
            rows[n:],
            keys,
            values,
            batch.block_tables[n:],
            batch.context_lens[n:],
            batch.block_size,
            batch.max_extend_context,
            query_start=batch.query_start,
            max_query_len=batch.max_query_len,
            out=out[n:],
            workspace=paged.workspace,
            key_scales=key_scales,
            value_scales=value_scales,
            **features,
        )
    return out


def register() -> None:
    """Make the function known to transformers; done once, before a model is built."""
    AttentionInterface.register(ATTENTION, paged_attention_forward)
