"""Attention of new tokens over keys and values that lie in pages.

A row is one sequence. Its context lies in the pages that its line of ``block_tables`` names, ``block_size`` tokens a
page, and includes the tokens that ask: their keys and values are stored first (``store_kv``).

====================  =========================================================================================
query, out            [tokens, heads, head_dim], float32, bfloat16 or float16 (float64 on the CPU)
key_cache,            [num_blocks, block_size, num_kv_heads, head_dim], dtype of the query, or of eight bits beside
value_cache           scales; views with other strides are welcome while both have the same and the last is 1
block_tables          int32 [batch, max_blocks]; entries past a row's context are never read
context_lens          int32 [batch], counting the tokens that ask
query_start           int32 [batch + 1]
sinks                 [heads], any float dtype
====================  =========================================================================================

Query head h reads KV head ``h // (heads // num_kv_heads)``. Tensors on the CPU are computed by numba
(decode in float32 and bfloat16, prompts in bfloat16 where the processor multiplies it) or torch, tensors on a GPU by
Triton. Nothing here records a gradient.

Sources: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention" (2023);
Dao et al., "Flash-Decoding for long-context inference" (2023) for contexts split over programs.
"""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from chatpager.kernels import cpu, cpu_decode
from chatpager.kernels.arguments import Options, SharedPrefix, check
from chatpager.kernels.workspace import Workspace

__all__ = ["Workspace", "forward", "prepare"]


def prepare(dtype: torch.dtype, device: torch.device, head_dim: int) -> None:
    """Compile what the first calls would wait for: seconds on a CPU where it was never done, else milliseconds of
    loading it. On a GPU kernels are compiled for the shapes of calls, so nothing is done here."""
    if device.type == "cpu":
        cpu_decode.prepare(dtype, head_dim)


@overload
def forward(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    block_size: int,
    max_context_len: int,
    *,
    return_lse: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def forward(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    block_size: int,
    max_context_len: int,
    *,
    return_lse: Literal[True],
    **options: Unpack[Options],
) -> tuple[Tensor, Tensor]: ...


def forward(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    block_size: int,
    max_context_len: int,
    *,
    out: Tensor | None = None,
    scale: float | None = None,
    query_start: Tensor | None = None,
    max_query_len: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    workspace: Workspace | None = None,
    plans: dict[Any, Any] | None = None,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    shared: SharedPrefix | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend; without ``query_start`` one token a row (decode), with it many (extend).

    Args:
        block_size: tokens in a page; must be the caches' and a multiple of 8.
        max_context_len: no context is longer. It only sizes the work on a GPU: a longer one is slower, never wrong.
        out: where to write; its token and head strides are free.
        scale: factor of the scores; ``head_dim ** -0.5`` by default.
        query_start: row i asks with tokens ``query_start[i]`` to ``query_start[i + 1]``: the last of its context.
        max_query_len: no row asks with more tokens; only sizes the work.
        sliding_window: a query at position p sees positions ``p - sliding_window + 1`` to p, as ``sliding_window``
            of Mistral, Gemma and the others in transformers. Pages wholly before it are never read.
        softcap: scores become ``softcap * tanh(score / softcap)`` (Gemma 2).
        sinks: one more logit a head, counted once, neither scaled nor capped, with no value (GPT-OSS).
        return_lse: also return the natural log of the softmax's denominator, sinks included: [tokens, heads] float32.
        workspace: scratch memory to reuse; without one every call allocates its own.
        plans: an empty dictionary, to be handed to every layer of one step with the same ``workspace`` and
            ``context_lens``: how decode is cut is then decided once, on the device. On a CPU nothing is.
        key_scales, value_scales: float32 [num_blocks, num_kv_heads, block_size], contiguous: the caches are then int8
            or float8_e4m3fn, as ``store_kv`` writes them beside scales, and a number of theirs is worth itself times
            its token's and head's scale.
        shared: rows of decode that share a prefix, which is then read once for a group; only without a window. It
            changes nothing but the work: on a CPU it is not looked at.

    A row without context gives zeros, and a log-sum-exp of -inf or of its sink.

    Raises:
        TypeError, ValueError: an argument does not fit the others; nothing was computed or written.
        IndexError: on a CPU, a table's entry within a context is no block; what ``out`` holds is undefined.
    """
    call = check(
        query, key_cache, value_cache, block_tables, context_lens, block_size, max_context_len, return_lse=return_lse,
        out=out, scale=scale, query_start=query_start, max_query_len=max_query_len, sliding_window=sliding_window,
        softcap=softcap, sinks=sinks, workspace=workspace, plans=plans,
        key_scales=key_scales, value_scales=value_scales, shared=shared,
    )  # fmt: skip
    if call.query.is_cuda:
        from chatpager.kernels import cuda  # triton is there on Linux only, and slow to import

        cuda.attend(call)
    else:
        cpu.attend(call)
    return call.out if call.lse is None else (call.out, call.lse)
