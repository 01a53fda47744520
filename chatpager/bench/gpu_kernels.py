"""The Triton kernels beside even decode: what each takes, what torch takes, and what the device cannot do faster.

On a GPU calls are captured in a graph and replayed: launched one by one most of them would take what a launch takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from chatpager.bench.ceilings import Ceilings
from chatpager.kernels import Workspace
from chatpager.kernels.arguments import AttentionCall, SharedPrefix, check
from chatpager.kernels.heuristics import shares_prefix

PAGE = 16
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """What is measured. ``heads``: query heads, KV heads, numbers of a head."""

    heads: tuple[int, int, int] = (32, 8, 128)
    hidden: int = 4096
    intermediate: int = 14_336
    vocabulary: int = 131_072
    tokens: tuple[int, ...] = (64, 2048)
    rows: tuple[int, ...] = (1, 64, 256)
    chunks: tuple[tuple[int, int], ...] = ((512, 0), (2048, 0), (8192, 0), (512, 8192), (512, 32_768))
    """New tokens, and tokens before them."""
    shared: tuple[tuple[int, int, int], ...] = ((8, 4096, 64), (32, 2048, 512), (256, 2048, 256), (64, 8192, 512))
    """Rows of decode, tokens that all of them begin with, and tokens that each has behind them."""
    ragged: tuple[tuple[int, ...], ...] = ((1016,) * 64, (512,) * 63 + (32_768,))


@dataclass(frozen=True)
class Case:
    """``moved`` bytes and ``operations`` are what the work needs at least; without ``torch`` there is nothing of its
    kind there."""

    kernel: str
    size: str
    moved: float
    operations: float
    ours: Work
    torch: Work | None = None
    call: AttentionCall | None = None
    """That others may compute, too."""


def cases(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """Made one by one, since together they would not fit."""
    for make in (_decodes, _shared_decodes, _extends, _stores, _rotations, _norms, _gates, _draws):
        yield from make(device, dtype, sizes)


def measure(device: torch.device, dtype: torch.dtype, ceilings: Ceilings, seconds: float) -> list[dict[str, Any]]:
    """Every kernel's figures, in the order of a step, which is that of ``cases``."""
    found = []
    for case in cases(device, dtype, Sizes()):
        took = seconds_each(device, [case.ours], seconds)
        floor, bound = ceilings.floor(case.moved, case.operations)
        row = {"kernel": case.kernel, "size": case.size, "us": round(1e6 * took, 1), "bound": bound}
        row |= {"gb_s": round(case.moved / took / 1e9, 1), "tflop_s": round(case.operations / took / 1e12, 1)}
        row |= {"of_floor": round(floor / took, 3)}
        if case.torch:
            row["torch_us"] = round(1e6 * seconds_each(device, [case.torch], seconds), 1)
        found.append(row)
    return found


MOST_CAPTURED = 512
"""Calls in one graph: as many as take pages that the caches have forgotten when their turn comes again."""
LEAST_CAPTURED = 64
"""Or what a launch and a wait take would be a part of each call's time."""


def seconds_each(device: torch.device, works: Sequence[Work], seconds: float) -> float:
    """The median time of one of ``works``, which take turns."""
    turn = list(works)[:MOST_CAPTURED]
    if device.type == "cuda":
        turn *= -(-LEAST_CAPTURED // len(turn))
        run = _captured(turn)
    else:
        run = partial(_all, turn)
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append((time.perf_counter() - start) / len(turn))
    return statistics.median(took)


def _all(works: Sequence[Work]) -> None:
    for work in works:
        work()


def _captured(works: Sequence[Work]) -> Work:
    """All of them as one graph; each is run before, since compiling cannot be captured."""
    _all(works)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _all(works)
    return graph.replay


# -- attention --------------------------------------------------------------------------------------------------------


def attention_call(
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    contexts: Sequence[int],
    query_lens: Sequence[int] | None = None,
    kept_as: torch.dtype | None = None,
) -> AttentionCall:
    """Rows over pages in a random order; decode without ``query_lens``. ``kept_as``: of eight bits, beside scales."""
    query_heads, kv_heads, dim = heads
    needed = [-(-n // PAGE) for n in contexts]
    order = torch.randperm(sum(needed), dtype=torch.int32, device=device)
    tables = torch.zeros(len(contexts), max(needed), dtype=torch.int32, device=device)
    for row, part in enumerate(torch.split(order, needed)):
        tables[row, : len(part)] = part
    keys, values = torch.randn(2, sum(needed), PAGE, kv_heads, dim, device=device).to(dtype)
    tokens = len(contexts) if query_lens is None else sum(query_lens)
    query = torch.randn(tokens, query_heads, dim, device=device).to(dtype)
    options: dict[str, Any] = {"workspace": Workspace(), "plans": {}}
    if kept_as is not None:
        keys, values = keys.to(kept_as), values.to(kept_as)
        scales = torch.ones(sum(needed), kv_heads, PAGE, device=device)
        options |= {"key_scales": scales, "value_scales": scales}
    if query_lens is not None:
        start = torch.tensor([0, *query_lens], device=device).cumsum(0).int()
        options |= {"query_start": start, "max_query_len": max(query_lens)}
    lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
    return check(query, keys, values, tables, lengths, PAGE, max(contexts), return_lse=False, **options)


def _decodes(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """Rows of unequal length against as many tokens in equal rows: planned pieces should make them alike. Then equal
    rows in eight bits."""
    from chatpager.kernels import cuda

    _, kv_heads, dim = sizes.heads
    kinds: list[tuple[tuple[int, ...], torch.dtype | None]] = [(rows, None) for rows in sizes.ragged]
    kinds += [(sizes.ragged[0], kind) for kind in cuda.served_eight_bits(device)]
    for contexts, kept_as in kinds:
        call = attention_call(device, dtype, sizes.heads, contexts, kept_as=kept_as)
        numbers = 2 * sum(contexts) * kv_heads
        moved = numbers * dim * dtype.itemsize if kept_as is None else numbers * (dim + 4)
        size = f"{len(contexts)} rows, {min(contexts):,} to {max(contexts):,}"
        name = "decode" if kept_as is None else f"decode {str(kept_as).removeprefix('torch.')}"
        yield Case(name, size, moved, 0, partial(cuda.attend, call), call=call)


def _shared_decodes(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """The same rows twice: each for itself, and all of them together where they are alike. The second must be the
    faster one where ``heuristics.shares_prefix`` says so, which only a measurement can tell."""
    from chatpager.kernels import cuda

    heads, kv_heads, dim = sizes.heads
    token_bytes = 2 * kv_heads * dim * dtype.itemsize
    for rows, prefix, suffix in sizes.shared:
        call = attention_call(device, dtype, sizes.heads, [prefix + suffix] * rows)
        blocks = prefix // PAGE
        call.block_tables[:, :blocks] = call.block_tables[0, :blocks]
        parts = [0, rows], list(range(rows)), [prefix], [prefix] * rows
        numbers = [torch.tensor(part, dtype=torch.int32, device=device) for part in parts]
        shared = SharedPrefix(numbers[0], numbers[1], numbers[2], numbers[3], longest=prefix)
        gate = "on" if shares_prefix(rows, prefix, heads // kv_heads, token_bytes) else "off"
        size = f"{rows} rows, {prefix:,} + {suffix:,}, gate {gate}"
        for name, given, tokens in (
            ("decode apart", call, rows * (prefix + suffix)),
            ("decode together", call._replace(shared=shared, plans={}), prefix + rows * suffix),
        ):
            yield Case(name, size, tokens * token_bytes, 0, partial(cuda.attend, given), call=given)


def _extends(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """torch's side lies in one piece, and behind earlier tokens it sees all keys, which is a little more."""
    from chatpager.kernels import cuda

    heads, kv_heads, dim = sizes.heads
    for count, before in sizes.chunks:
        call = attention_call(device, dtype, sizes.heads, [before + count], [count])
        shape = (1, heads, count, dim), (1, kv_heads, before + count, dim)
        query, key, value = (torch.randn(shape[min(i, 1)], device=device).to(dtype) for i in range(3))
        plain = partial(
            scaled_dot_product_attention, query, key, value, is_causal=before == 0, enable_gqa=heads != kv_heads
        )
        operations = 4 * heads * dim * count * (before + (count + 1) / 2)
        moved = 2 * dtype.itemsize * dim * (kv_heads * (before + count) + heads * count)
        size = f"{count:,} behind {before:,}"
        yield Case("extend", size, moved, operations, partial(cuda.attend, call), plain, call)


# -- between products -------------------------------------------------------------------------------------------------


def _pages_of(device: torch.device, dtype: torch.dtype, sizes: Sizes, tokens: int) -> tuple[torch.Tensor, ...]:
    """Keys, values and slots of so many tokens."""
    _, kv_heads, dim = sizes.heads
    keys, values = torch.zeros(2, -(-tokens // PAGE), PAGE, kv_heads, dim, device=device, dtype=dtype)
    return keys, values, torch.randperm(tokens, device=device)


def _stores(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    from chatpager.kernels import cuda_store

    _, kv_heads, dim = sizes.heads
    for tokens in sizes.tokens:
        keys, values, slots = _pages_of(device, dtype, sizes, tokens)
        new = torch.randn(2, tokens, kv_heads, dim, device=device).to(dtype)
        flat = keys.flatten(0, 1), values.flatten(0, 1)

        def plain(flat: tuple[torch.Tensor, ...] = flat, new: torch.Tensor = new, slots: torch.Tensor = slots) -> None:
            flat[0].index_copy_(0, slots, new[0])
            flat[1].index_copy_(0, slots, new[1])

        ours = partial(cuda_store.store_kv, new[0], new[1], keys, values, slots)
        yield Case("store", f"{tokens:,} tokens", 2 * new.nbytes, 0, ours, plain)


def _rotations(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    from chatpager.kernels import cuda_rows

    heads, kv_heads, dim = sizes.heads
    for tokens in sizes.tokens:
        keys, values, slots = _pages_of(device, dtype, sizes, tokens)
        rows = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=device).to(dtype)
        cos, sin = torch.rand(2, tokens, dim, device=device).to(dtype)
        ours = partial(cuda_rows.rotate_store, rows, (heads, kv_heads), (cos, sin), None, 0.0, (keys, values), slots)
        turned = rows[:, : (heads + kv_heads) * dim].view(tokens, -1, dim)
        plain = partial(_rotated, turned, cos[:, None], sin[:, None])
        yield Case("rotate and store", f"{tokens:,} tokens", 2 * rows.nbytes, 0, ours, plain)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As transformers rotates; it stores nothing."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def _norms(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    from chatpager.kernels import cuda_rows

    for tokens in sizes.tokens:
        x, delta = torch.randn(2, tokens, sizes.hidden, device=device).to(dtype)
        weight = torch.ones(sizes.hidden, device=device, dtype=dtype)
        ours = partial(cuda_rows.add_norm, x, delta, weight, 1e-5)

        def plain(x: torch.Tensor = x, delta: torch.Tensor = delta, weight: torch.Tensor = weight) -> object:
            return rms_norm(x.add_(delta), weight.shape, weight, 1e-5)

        yield Case("sum and norm", f"{tokens:,} x {sizes.hidden:,}", 4 * x.nbytes, 0, ours, plain)


def _gates(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    from chatpager.kernels import cuda_rows

    for tokens in sizes.tokens:
        both = torch.randn(tokens, 2 * sizes.intermediate, device=device).to(dtype)
        left, right = both.chunk(2, -1)

        def plain(left: torch.Tensor = left, right: torch.Tensor = right) -> object:
            return silu(left) * right

        size = f"{tokens:,} x {sizes.intermediate:,}"
        yield Case("gate", size, 1.5 * both.nbytes, 0, partial(cuda_rows.gate, both), plain)


# -- sampling ---------------------------------------------------------------------------------------------------------


def _draws(device: torch.device, _: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    from chatpager.kernels import cuda_sampling

    for rows in sizes.rows:
        logits = 3 * torch.randn(rows, sizes.vocabulary, device=device)
        for name, top_k, top_p in (("temperature", 0, 1.0), ("top-p", 0, 0.9), ("top-k, top-p", 50, 0.9)):
            ours = partial(
                cuda_sampling.draw,
                logits,
                temperature=torch.full((rows,), 0.8, device=device),
                top_k=torch.full((rows,), top_k, dtype=torch.int32, device=device),
                top_p=torch.full((rows,), top_p, device=device),
                log_min_p=torch.full((rows,), -torch.inf, device=device),
                seeds=torch.arange(rows, device=device),
                positions=torch.arange(rows, device=device),
                workspace=Workspace(),
                is_cut=top_k > 0 or top_p < 1.0,
            )
            plain = partial(_sorted_draw, logits, top_k or sizes.vocabulary, top_p)
            yield Case("draw", f"{rows} x {sizes.vocabulary:,}, {name}", logits.nbytes, 0, ours, plain)


def _sorted_draw(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """By a sort, as the CPU's sampler cuts; without one where nothing is cut."""
    scaled, places = logits / 0.8, None
    if top_p < 1.0 or top_k < logits.shape[-1]:
        scaled, places = scaled.sort(dim=-1, descending=True)
        scaled[:, top_k:] = -torch.inf
        probs = scaled.softmax(-1)
        scaled = scaled.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf)
    noise = torch.rand_like(scaled).log_().neg_()
    found = (scaled.softmax(-1) / noise).argmax(-1, keepdim=True)
    return found if places is None else places.gather(-1, found)
