"""vLLM's paged attention in Triton (Apache-2.0), where vLLM is installed; with the memory that its engine gives it."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from chatpager.bench.attention_peer import Make, Work, first_of
from chatpager.bench.page_lists import longest_query, query_starts
from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.heuristics import power_of_2

PLACES = "vllm.v1.attention.ops.triton_unified_attention", "vllm.attention.ops.triton_unified_attention"
"""Where it is, and where it was until 2026."""
SEGMENTS = 16
LEAST_PROGRAMS = 128
"""It splits contexts, into so many segments, where rows times KV heads are no more than this."""


def load() -> Make | None:
    """None: it is not here. Raises ImportError: what it needs is not."""
    module = first_of(*PLACES)
    return None if module is None else partial(make, module.unified_attention)


def make(unified_attention: Any, call: AttentionCall) -> Work | None:
    out = torch.empty_like(call.query)
    scales = torch.ones(1, device=out.device).expand(len(call.context_lens), call.kv_heads)
    options = {
        "q": call.query, "k": call.key_cache, "v": call.value_cache, "out": out, "cu_seqlens_q": query_starts(call),
        "max_seqlen_q": longest_query(call), "seqused_k": call.context_lens, "max_seqlen_k": call.max_context_len,
        "softmax_scale": call.scale, "causal": True, "window_size": (-1, -1), "block_table": call.block_tables,
        "softcap": 0.0, "q_descale": None, "k_descale": scales, "v_descale": scales,
    }  # fmt: skip
    if "softmax_segm_output" in signature(unified_attention).parameters:
        options |= segments(call)

    def work() -> Tensor:
        unified_attention(**options)
        return out

    return work


def segments(call: AttentionCall) -> dict[str, Any]:
    """What versions that split contexts want to be given."""
    most, heads, device = LEAST_PROGRAMS // call.kv_heads, call.query.shape[1], call.query.device
    parts = torch.empty(most, heads, SEGMENTS, power_of_2(call.head_dim), device=device)
    return {
        "seq_threshold_3D": most, "num_par_softmax_segments": SEGMENTS, "softmax_segm_output": parts,
        "softmax_segm_max": torch.empty(parts.shape[:3], device=device),
        "softmax_segm_expsum": torch.empty(parts.shape[:3], device=device),
    }  # fmt: skip
