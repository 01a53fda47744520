"""What only a GPU can show: graphs, streams, waiting for the device, and served shapes in half precision."""

import pytest
import torch

from chatpager.kernels import Workspace, paged_attention
from tests.kernels.pages import TOLERANCE, Problem, assert_close, pages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

SHAPE = {"heads": 8, "kv_heads": 2, "head_dim": 64, "dtype": torch.bfloat16}


def call(problem: Problem, **options):
    tensors = problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens
    longest = 4096 if problem.max_context_len is None else problem.max_context_len
    return paged_attention.forward(*tensors, problem.key_cache.shape[1], longest, **problem.options, **options)


def assert_reference(out, problem):
    assert_close(out.cpu(), problem.expected()[0], TOLERANCE[problem.query.dtype])


@pytest.mark.parametrize("query_lens", [None, [1, 20, 3]])
def test_nothing_waits_for_the_device(query_lens):
    problem = pages([1, 70, 40], query_lens, **SHAPE).to("cuda")
    call(problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = call(problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_reference(out, problem)


def test_a_graph_captured_with_short_contexts_replays_long_ones():
    """The graph's grid follows ``max_context_len``; lengths, tables and queries are read when it runs."""
    problem = pages([3000, 1, 700, 0], **SHAPE).to("cuda")
    lengths, tables = problem.context_lens.clone(), problem.block_tables.clone()
    out, workspace = torch.empty_like(problem.query), Workspace()
    problem.context_lens.fill_(1)
    call(problem, out=out, workspace=workspace)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(problem, out=out, workspace=workspace)
    for changed in (lengths, lengths.flip(0), torch.zeros_like(lengths)):
        problem.context_lens.copy_(changed)
        problem.block_tables.copy_(tables if changed is lengths else tables.flip(0))
        out.fill_(torch.nan)
        graph.replay()
        assert_reference(out, problem)


def test_two_streams_at_once():
    problems = [pages([2000 + i, 17], seed=i, **SHAPE).to("cuda") for i in range(4)]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    outs = []
    for problem, stream in zip(problems, streams, strict=True):
        with torch.cuda.stream(stream):
            outs.append(call(problem))
    torch.cuda.synchronize()
    for out, problem in zip(outs, problems, strict=True):
        assert_reference(out, problem)


LLAMA = (32, 8, 128)
SERVED = [(LLAMA, block_size) for block_size in (16, 32, 48, 64, 128)]
SERVED += [(s, b) for s in ((16, 8, 128), (64, 8, 64), (32, 32, 80), (16, 2, 256), (12, 1, 96)) for b in (16, 64)]


@pytest.mark.parametrize(("shape", "block_size"), SERVED)
@pytest.mark.parametrize("query_lens", [None, [1, 300, 64, 129, 0]], ids=["decode", "extend"])
def test_served_shapes(shape, block_size, query_lens):
    heads, kv_heads, head_dim = shape
    problem = pages(
        [1, 1000, 64, 2049, 0],
        query_lens,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        block_size=block_size,
        dtype=torch.bfloat16,
    ).to("cuda")
    assert_close(call(problem).cpu(), dense_expected(problem), TOLERANCE[torch.bfloat16])


def dense_expected(problem: Problem) -> torch.Tensor:
    """The definition in float64 on the GPU, without loops over heads: the reference is too slow for these sizes."""
    tokens, heads, head_dim = problem.query.shape
    block_size, kv_heads = problem.key_cache.shape[1:3]
    out = torch.zeros(tokens, heads, head_dim, dtype=torch.float64, device="cuda")
    start = problem.options.get("query_start", torch.arange(tokens + 1)).tolist()
    for row, context in enumerate(problem.context_lens.tolist()):
        first, last = start[row], start[row + 1]
        if last == first or context == 0:
            continue
        position = torch.arange(context, device="cuda")
        page = problem.block_tables[row].long()[position // block_size]
        key, value = (
            cache[page, position % block_size].double().repeat_interleave(heads // kv_heads, 1)
            for cache in (problem.key_cache, problem.value_cache)
        )
        score = torch.einsum("qhd,khd->hqk", problem.query[first:last].double(), key) * head_dim**-0.5
        asking = torch.arange(context - (last - first), context, device="cuda")
        score.masked_fill_(position > asking[:, None], -torch.inf)
        out[first:last] = torch.einsum("hqk,khd->qhd", score.softmax(-1), value)
    return out.cpu()
