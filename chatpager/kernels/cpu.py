"""Paged attention on the CPU: by ``cpu_decode`` and ``cpu_extend`` where they serve; all else gathers pages into a
workspace for torch's fused attention, which widens those of eight bits.

The fused operator is called by its aten name because only that form returns the log-sum-exp, which joins a prefix
with the causal part and folds in attention sinks. It must never see an empty tensor: it divides by the lengths.
Soft-capped scores are computed step by step.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from chatpager.kernels import cpu_decode, cpu_eight_bits, cpu_extend
from chatpager.kernels.arguments import AttentionCall

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

RUN_BYTES = 1 << 20
"""Keys and values of decode rows that are gathered together: about what stays in a core's second-level cache."""

PIECE_BYTES = 32 << 20
"""Keys and values of one row that are gathered together: bounds the workspace, whatever the context."""

MASKED_QUERIES = 128
"""Queries of one call under a window or a softcap: bounds mask and scores, and lets a window skip unseen keys."""


def attend(call: AttentionCall, *, gather: bool = False) -> None:
    """Fill ``call.out`` and ``call.lse``; ``gather`` leaves all of it to torch, for tests and measurements.

    Raises:
        ValueError: a context exceeds its block table, or ``query_start`` does not fit; nothing was written.
    """
    gather = gather or call.key_scales is not None
    context_lens: list[int] = call.context_lens.tolist()
    room = call.block_tables.shape[1] * call.block_size
    if context_lens and not 0 <= min(context_lens) <= max(context_lens) <= room:
        raise ValueError(f"context_lens must lie between 0 and the block table's {room} tokens, got {context_lens}")
    if call.query_start is None:
        _decode(call, context_lens, gather)
        return
    starts = _checked_starts(call, call.query_start.tolist(), context_lens)
    lse = torch.empty(call.query.shape[:2], dtype=torch.promote_types(call.query.dtype, torch.float32))
    if gather or not cpu_extend.extend(call, sum(context_lens), lse):
        _extend(call, context_lens, starts)
    elif call.sinks is not None or call.lse is not None:
        _store(call, slice(None), call.out, lse)


def _checked_starts(call: AttentionCall, starts: list[int], context_lens: list[int]) -> list[int]:
    lengths = [stop - start for start, stop in pairwise(starts)]
    fits = all(0 <= n <= context for n, context in zip(lengths, context_lens, strict=True))
    if starts[0] != 0 or starts[-1] != call.query.shape[0] or not fits:
        raise ValueError(
            f"query_start must rise from 0 to {call.query.shape[0]} with no row longer than its context, "
            f"got {starts} for context_lens {context_lens}"
        )
    return starts


def _decode(call: AttentionCall, context_lens: list[int], gather: bool) -> None:
    starts = [max(0, n - call.sliding_window) for n in context_lens] if call.sliding_window else [0] * len(context_lens)
    spans = list(zip(starts, context_lens, strict=True))
    seen = [row for row, (start, stop) in enumerate(spans) if start < stop]
    out = call.out.view(len(spans), call.kv_heads, call.group, call.head_dim)  # heads always split without a copy
    lse = torch.full(out.shape[:3], -torch.inf, dtype=torch.promote_types(out.dtype, torch.float32))
    if len(seen) < len(spans):
        out.zero_()
    if seen and (gather or not cpu_decode.decode(call, sum(stop - start for start, stop in spans), lse)):
        _decode_gathered(call, seen, spans, out, lse)
    if call.sinks is not None or call.lse is not None:
        _store(call, slice(None), call.out, lse.flatten(1))


def _decode_gathered(
    call: AttentionCall, seen: list[int], spans: list[tuple[int, int]], out: Tensor, lse: Tensor
) -> None:
    is_plain = call.key_scales is None and _is_flat(call.key_cache)
    runs = plan_runs(seen, spans, _token_bytes(call)) if is_plain else []
    if runs:
        _decode_together(call, runs, spans, out, lse)
        seen = sorted(set(seen).difference(*runs))
    if seen:
        _decode_alone(call, seen, spans, out, lse)


def _token_bytes(call: AttentionCall) -> int:
    return 2 * call.kv_heads * call.head_dim * call.query.element_size()


def _piece(call: AttentionCall) -> int:
    """Tokens of one row that are gathered together: whole pages."""
    return max(1, PIECE_BYTES // (_token_bytes(call) * call.block_size)) * call.block_size


def _is_flat(cache: Tensor) -> bool:
    """Whether a slot's number is its row in ``cache`` seen as [slots, kv_heads, head_dim]."""
    return cache.stride(0) == cache.shape[1] * cache.stride(1)


def plan_runs(rows: list[int], spans: list[tuple[int, int]], token_bytes: int) -> list[list[int]]:
    """Decode rows that share a padded call, shortest first; ``spans`` are the tokens (from, to) each row attends to.

    Rows of a run are alike, since padding by more than a quarter costs more than sharing saves, and their keys and
    values fit the cache together. Measured on one thread: a run of fewer than eight is no faster than its rows alone,
    and neither are fewer than sixteen rows in all, since runs must be prepared.
    """
    if len(rows) < 16:
        return []
    lengths = {row: spans[row][1] - spans[row][0] for row in rows}
    runs: list[list[int]] = []
    for row in sorted(rows, key=lengths.__getitem__):
        shortest = lengths[runs[-1][0]] if runs else 0
        fits = runs and (len(runs[-1]) + 1) * lengths[row] * token_bytes <= RUN_BYTES
        if fits and lengths[row] <= shortest + shortest // 4 + 16:
            runs[-1].append(row)
        else:
            runs.append([row])
    runs = [run for run in runs if len(run) >= 8]
    return runs if sum(map(len, runs)) >= 16 else []


def _decode_alone(call: AttentionCall, rows: list[int], spans: list[tuple[int, int]], out: Tensor, lse: Tensor) -> None:
    """Rows one by one: pages are copied whole into the same memory, and slicing leaves nothing to mask."""
    size, piece = call.block_size, _piece(call)
    short = [row for row in rows if call.key_scales is None and spans[row][1] - spans[row][0] <= piece]
    most = max((-(-spans[row][1] // size) - spans[row][0] // size for row in short), default=0)
    shape, dtype, device = (most, size, call.kv_heads, call.head_dim), call.query.dtype, call.query.device
    key_pages = call.workspace.take("key", shape, dtype, device)
    value_pages = call.workspace.take("value", shape, dtype, device)
    keys, values = (pages.view(1, -1, *shape[2:]).transpose(1, 2) for pages in (key_pages, value_pages))
    queries = call.query.view(-1, 1, *out.shape[1:])
    for row in short:
        start, stop = spans[row]
        first, last = start // size, -(-stop // size)
        pages = call.block_tables[row, first:last]
        torch.index_select(call.key_cache, 0, pages, out=key_pages[: last - first])
        torch.index_select(call.value_cache, 0, pages, out=value_pages[: last - first])
        inside = slice(start - first * size, stop - first * size)
        out[row], lse[row] = _attend(call, queries[row], keys[:, :, inside], values[:, :, inside], None)
    for row in set(rows).difference(short):
        out[row], lse[row] = _attend_range(call, queries[row], row, *spans[row])


def _decode_together(
    call: AttentionCall, runs: list[list[int]], spans: list[tuple[int, int]], out: Tensor, lse: Tensor
) -> None:
    """Runs of several rows, each padded to its longest."""
    index = torch.tensor([row for run in runs for row in run])
    slots, mask = _padded_slots(call, index, torch.tensor(spans)[index])
    query = call.query[index].view(-1, *out.shape[1:])
    first = 0
    for run in runs:
        at, longest = slice(first, first + len(run)), spans[run[-1]][1] - spans[run[-1]][0]
        first += len(run)
        shape = (len(run), longest, call.kv_heads, call.head_dim)
        key, value = (
            _gather(call, name, cache.flatten(0, 1), slots[at, :longest].flatten()).view(shape).transpose(1, 2)
            for name, cache in (("key", call.key_cache), ("value", call.value_cache))
        )
        part, lse[index[at]] = _attend(
            call, query[at], key, value, mask[at, :, :, :longest].expand(-1, 1, call.group, -1)
        )
        out[index[at]] = part.to(out.dtype)


def _padded_slots(call: AttentionCall, rows: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """Slots [rows, longest] of the tokens in ``spans`` [rows, 2], and the mask [rows, 1, 1, longest] to add.

    Padding repeats the span's first slot, so that no slot is read that the row does not own: what lies there may be
    NaN, and a mask does not stop NaN.
    """
    start, stop = spans[:, :1], spans[:, 1:]
    offset = torch.arange(int((stop - start).max()))
    padding = offset >= stop - start
    position = start + offset.expand(padding.shape).masked_fill(padding, 0)
    page = call.block_tables[rows].long().gather(1, position // call.block_size)
    mask = torch.zeros(padding.shape, dtype=call.query.dtype).masked_fill_(padding, -torch.inf)
    return page * call.block_size + position % call.block_size, mask[:, None, None]


def _extend(call: AttentionCall, context_lens: list[int], starts: list[int]) -> None:
    for row, context_len in enumerate(context_lens):
        start, stop = starts[row], starts[row + 1]
        windowed = call.sliding_window is not None and call.sliding_window < context_len
        step = MASKED_QUERIES if windowed or call.softcap else max(1, stop - start)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if windowed:
                _extend_window(call, row, first, last, context_len - (stop - last))
            else:
                _extend_causal(call, row, first, last, context_len - (stop - last))


def _extend_causal(call: AttentionCall, row: int, start: int, stop: int, context_len: int) -> None:
    """Tokens ``start`` to ``stop`` of one row, the last at ``context_len - 1``: what lies before them without a mask,
    the query heads of a group folded into one, then the tokens among themselves; joined by their log-sum-exp."""
    prefix = context_len - (stop - start)
    query = _heads_first(call, start, stop)
    key, value = _gather_pages(call, row, prefix, context_len)
    out, lse = _attend(call, query, _share(key, call.group), _share(value, call.group), None, causal=True)
    if prefix:
        folded = query.flatten(1, 2).unsqueeze(0)
        before, lse_before = _attend_range(call, folded, row, 0, prefix)
        out, lse = _join(out, lse, before.view(out.shape), lse_before.view(lse.shape))
    _store(call, slice(start, stop), _tokens_first(out), _tokens_first(lse))


def _extend_window(call: AttentionCall, row: int, start: int, stop: int, context_len: int) -> None:
    """The same under a sliding window: the keys that any of the tokens sees, and an explicit mask."""
    assert call.sliding_window is not None
    position = torch.arange(context_len - (stop - start), context_len).unsqueeze(1)
    first = max(0, context_len - (stop - start) - call.sliding_window + 1)
    other = torch.arange(first, context_len)
    hidden = (other > position) | (other <= position - call.sliding_window)
    mask = torch.zeros(hidden.shape, dtype=call.query.dtype).masked_fill_(hidden, -torch.inf)[None, None]
    key, value = _gather_pages(call, row, first, context_len)
    query = _heads_first(call, start, stop)
    out, lse = _attend(call, query, _share(key, call.group), _share(value, call.group), mask)
    _store(call, slice(start, stop), _tokens_first(out), _tokens_first(lse))


def _heads_first(call: AttentionCall, start: int, stop: int) -> Tensor:
    """[kv_heads, group, tokens, head_dim]"""
    shape = (stop - start, call.kv_heads, call.group, call.head_dim)
    return call.query[start:stop].view(shape).permute(1, 2, 0, 3)  # heads always split without a copy


def _tokens_first(result: Tensor) -> Tensor:
    """[kv_heads, group, tokens, ...] as [tokens, heads, ...]"""
    return result.movedim(2, 0).flatten(1, 2)


def _share(tokens: Tensor, group: int) -> Tensor:
    """[1, kv_heads, tokens, head_dim] as [kv_heads, group, tokens, head_dim], without a copy."""
    return tokens.transpose(0, 1).expand(-1, group, -1, -1)


def _attend_range(call: AttentionCall, query: Tensor, row: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """``query`` [1, kv_heads, rows, head_dim] sees all of the row's tokens from ``start`` to ``stop``."""
    assert start < stop, f"an empty range: {start}..{stop}"
    piece = _piece(call)
    joined = _attend(call, query, *_gather_pages(call, row, start, min(start + piece, stop)), None)
    for first in range(start + piece, stop, piece):
        part = _attend(call, query, *_gather_pages(call, row, first, min(first + piece, stop)), None)
        joined = _join(*joined, *part)
    return joined


def _gather_pages(call: AttentionCall, row: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Keys and values [1, kv_heads, stop - start, head_dim] of one row; only pages that hold them are read."""
    first, last = start // call.block_size, -(-stop // call.block_size)
    pages = call.block_tables[row, first:last]
    shape = (1, -1, call.kv_heads, call.head_dim)
    inside = slice(start - first * call.block_size, stop - first * call.block_size)
    key = _gather(call, "key", call.key_cache, pages, call.key_scales)
    value = _gather(call, "value", call.value_cache, pages, call.value_scales)
    return key.view(shape)[:, inside].transpose(1, 2), value.view(shape)[:, inside].transpose(1, 2)


def _gather(call: AttentionCall, name: str, source: Tensor, index: Tensor, scales: Tensor | None = None) -> Tensor:
    into = call.workspace.take(name, (index.shape[0], *source.shape[1:]), call.query.dtype, source.device)
    if scales is not None:
        return cpu_eight_bits.gather(source, scales, index, into)
    return torch.index_select(source, 0, index, out=into)


def _attend(
    call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Output like ``query`` and the log-sum-exp; dimensions are batch, heads, tokens, head_dim."""
    if call.softcap is None:
        out, lse = _fused(query, key, value, 0.0, causal, attn_mask=mask, scale=call.scale)
        return out, lse
    dtype = torch.promote_types(query.dtype, torch.float32)
    score = query.to(dtype) @ key.to(dtype).transpose(-1, -2)
    score = score.mul_(call.scale / call.softcap).tanh_().mul_(call.softcap)
    if mask is not None:
        score += mask
    if causal:
        score.masked_fill_(torch.ones(score.shape[-2:], dtype=torch.bool).triu_(1), -torch.inf)
    lse = torch.logsumexp(score, -1)
    return torch.exp(score - lse.unsqueeze(-1)) @ value.to(dtype), lse


def _join(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint sets of keys, in the precision of the log-sum-exp."""
    share = torch.sigmoid(other_lse - lse).unsqueeze(-1)
    return torch.lerp(out.to(lse.dtype), other.to(lse.dtype), share), torch.logaddexp(lse, other_lse)


def _store(call: AttentionCall, tokens: slice | Tensor, out: Tensor, lse: Tensor) -> None:
    """``out`` [tokens, heads, head_dim], ``lse`` [tokens, heads]; a sink takes its share of the softmax here."""
    if call.sinks is not None:
        with_sink = torch.logaddexp(lse, call.sinks.to(lse.dtype))
        out = out * torch.exp(lse - with_sink).nan_to_num_(0.0).unsqueeze(-1)  # NaN: neither a key nor a sink
        lse = with_sink
    call.out[tokens] = out.to(call.out.dtype)
    if call.lse is not None:
        call.lse[tokens] = lse.to(call.lse.dtype)
