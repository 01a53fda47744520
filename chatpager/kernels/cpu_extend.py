"""Attention of prompts on the CPU where the processor multiplies bfloat16: ``cpu_extend_jit`` reads pages in place."""

from __future__ import annotations

import torch
from torch import Tensor

from chatpager.kernels import cpu_decode
from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.cpu_code import kernel_of, parts_for

STARTS, STARTS_STEP, SEQUENCES, PART = range(cpu_decode.ENDED + 1, cpu_decode.ENDED + 5)
"""Places behind those of decode: where each row's queries begin, how many rows there are, and how many threads have
taken a part of the scratch."""

QUERIES = 128
"""Queries of one KV head that meet a packed tile, about: packing it takes as long as three of them."""


def extend(call: AttentionCall, tokens: int, lse: Tensor) -> bool:
    """Fill ``call.out`` and ``lse`` [tokens, heads], for rows of ``tokens`` tokens of context in all; False if the call
    is not served, and nothing was written.

    Raises:
        IndexError: a table's entry within a context is no block; what was written is of no use.
    """
    dtype, dim = call.query.dtype, call.head_dim
    found = kernel_of("cpu_extend_jit", "extend") if cpu_decode.by_dots(dtype, dim, call.softcap) else None
    if found is None or call.query_start is None or not call.key_cache.shape[0]:
        return False
    parts = parts_for((call.query.numel() + 2 * tokens * call.kv_heads * dim) * call.query.element_size())
    queries = call.group * max(1, QUERIES // call.group)
    words = cpu_decode.dot_words(queries, dim) + queries * dim
    scratch = call.workspace.take("extend", (parts, words), torch.float32, call.query.device)
    table = cpu_decode.call_table(call, lse, parts, scratch)
    table.extend((call.query_start.data_ptr(), call.query_start.stride(0), len(call.context_lens), 0))
    found.run(table, parts)
    if wrong := table[cpu_decode.WRONG_BLOCK]:
        raise IndexError(f"block_tables names block {wrong}, but the caches have {call.key_cache.shape[0]}")
    return True
