"""FlashAttention 3 (BSD-3-Clause), where it is installed: its own library or the one that vLLM's wheel brings along.

Theirs is ``flash_attn_interface``. vLLM's is a package, which may also lie by itself on the path as
``vllm_flash_attn`` (an empty ``__init__.py``, ``flash_attn_interface.py`` and ``_vllm_fa3_C.abi3.so``).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from chatpager.bench.attention_peer import Make, Work, first_of
from chatpager.bench.page_lists import longest_query, query_starts
from chatpager.kernels.arguments import AttentionCall

FORKS = "vllm.vllm_flash_attn.flash_attn_interface", "vllm_flash_attn.flash_attn_interface"


def load() -> Make | None:
    """None: neither of them is here. Raises ImportError: what it needs is not."""
    if (library := first_of("flash_attn_interface")) is not None:
        return partial(make, library)
    if (fork := first_of(*FORKS)) is None:
        return None
    if not getattr(fork, "FA3_AVAILABLE", True):
        raise ImportError(fork.FA3_UNAVAILABLE_REASON)
    return partial(make_of_fork, fork)


def make(library: Any, call: AttentionCall) -> Work | None:
    """As the library's own measurements call it: what it plans once a step is planned before."""
    rows, is_decode = len(call.context_lens), call.query_start is None
    caches, options = (call.key_cache, call.value_cache), _options(call) | {"page_table": call.block_tables}
    if is_decode:
        query = call.query.unsqueeze(1)
    else:
        query = call.query
        options |= {"cu_seqlens_q": call.query_start, "max_seqlen_q": longest_query(call)}
    options["scheduler_metadata"] = library.get_scheduler_metadata(
        rows, max_seqlen_q=longest_query(call), cu_seqlens_q=call.query_start, cache_seqlens=call.context_lens,
        **_sizes(call),
    )  # fmt: skip

    def work() -> Tensor:
        out: Tensor = library.flash_attn_with_kvcache(query, *caches, cache_seqlens=call.context_lens, **options)
        return out.squeeze(1) if is_decode else out

    return work


def make_of_fork(library: Any, call: AttentionCall) -> Work | None:
    """As vLLM calls it, for decodes and prompts alike."""
    starts = query_starts(call)
    planned = library.get_scheduler_metadata(
        len(call.context_lens), max_seqlen_q=longest_query(call), cu_seqlens_q=starts, cache_seqlens=call.context_lens,
        **_sizes(call),
    )  # fmt: skip
    return partial(
        library.flash_attn_varlen_func, call.query, call.key_cache, call.value_cache, max_seqlen_q=longest_query(call),
        cu_seqlens_q=starts, max_seqlen_k=call.max_context_len, seqused_k=call.context_lens,
        block_table=call.block_tables, scheduler_metadata=planned, fa_version=3, **_options(call),
    )  # fmt: skip


def _options(call: AttentionCall) -> dict[str, Any]:
    return {"softmax_scale": call.scale, "causal": True, "num_splits": 0}


def _sizes(call: AttentionCall) -> dict[str, Any]:
    return {
        "max_seqlen_k": call.max_context_len, "num_heads_q": call.query.shape[1], "num_heads_kv": call.kv_heads,
        "headdim": call.head_dim, "qkv_dtype": call.query.dtype, "page_size": call.block_size, "causal": True,
        "num_splits": 0,
    }  # fmt: skip
