"""Paged attention by definition: gather tokens one by one, mask, softmax. The tests compare everything to it."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float | None = None,
    query_start: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [tokens, heads, head_dim] and log-sum-exp [tokens, heads], both float64; shapes as in ``paged_attention``.

    ``sinks`` are logits that take their share of the softmax and contribute no value; the log-sum-exp counts them.
    A row without context gives zeros, and a log-sum-exp of -inf or of its sink.
    """
    tokens, heads, head_dim = query.shape
    group = heads // key_cache.shape[2]
    out = torch.zeros(tokens, heads, head_dim, dtype=torch.float64)
    empty = torch.full((heads,), -torch.inf) if sinks is None else sinks
    lse = empty.double().repeat(tokens, 1)
    starts = list(range(tokens + 1)) if query_start is None else query_start.tolist()
    for row, context_len in enumerate(context_lens.tolist()):
        key = _gather(key_cache, block_tables[row], context_len)
        value = _gather(value_cache, block_tables[row], context_len)
        first = context_len - (starts[row + 1] - starts[row])
        for token in range(starts[row], starts[row + 1]):
            stop = first + token - starts[row] + 1  # one past the query's own position
            start = max(0, stop - sliding_window) if sliding_window else 0
            if stop <= 0:
                continue
            for head in range(heads):
                k, v = key[start:stop, head // group], value[start:stop, head // group]
                score = k @ query[token, head].double() * (head_dim**-0.5 if scale is None else scale)
                if softcap:
                    score = softcap * torch.tanh(score / softcap)
                logits = score if sinks is None else torch.cat([score, sinks[head : head + 1].double()])
                lse[token, head] = torch.logsumexp(logits, 0)
                out[token, head] = torch.exp(score - lse[token, head]) @ v
    return out, lse


def _gather(cache: Tensor, table: Tensor, context_len: int) -> Tensor:
    """[context_len, num_kv_heads, head_dim] in float64, in the order of the context."""
    block_size = cache.shape[1]
    tokens = [cache[table[i // block_size], i % block_size] for i in range(context_len)]
    return torch.stack(tokens).double() if tokens else cache.new_empty(0, *cache.shape[2:]).double()
