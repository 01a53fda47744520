"""Several tokens a row: prompts, chunks and new turns over a prefix in pages, on every backend."""

import pytest
import torch

from chatpager.kernels.heuristics import extend_tiling
from tests.kernels.pages import TOLERANCE, Problem, assert_close, assert_right, pages

pytestmark = pytest.mark.no_cover  # other tests cover the same, and the interpreter takes twice as long
TILE = extend_tiling(16, 2, 4, 4096, 1 << 20).tile


@pytest.mark.parametrize("block_size", [8, 16, 24, 64])
@pytest.mark.parametrize("prefix", [0, 5, 64])
def test_query_lengths_around_a_tile(backend, block_size, prefix):
    query_lens = [1, TILE - 1, TILE, TILE + 1, 33]
    contexts = [prefix + n for n in query_lens]
    assert_right(backend, pages(contexts, query_lens, block_size=block_size))


def test_a_prompt_of_several_blocks_of_rows(backend):
    assert_right(backend, pages([150], [150]))


def test_a_chunk_on_a_long_prefix(backend):
    assert_right(backend, pages([420], [20]))


def test_rows_without_new_tokens_or_context(backend):
    assert_right(backend, pages([0, 9, 0, 30, 12, 0], [0, 0, 0, 7, 12, 0]))


def test_no_token_at_all(backend):
    out, _ = backend(pages([4, 0], [0, 0]))
    assert out.shape == (0, 2, 16)


def test_no_row_at_all(backend):
    out, _ = backend(pages([], []))
    assert out.shape == (0, 2, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype(backend, dtype):
    if dtype not in backend.dtypes:
        with pytest.raises(TypeError, match="query must be a tensor"):
            backend(pages([1], [1], dtype=dtype))
        return
    assert_right(backend, pages([17, 90], [17, 12], heads=4, kv_heads=2, head_dim=32, dtype=dtype))


@pytest.mark.parametrize("group", [1, 2, 3, 5, 6, 7, 8, 12, 16])
def test_any_number_of_query_heads_share_a_kv_head(backend, group):
    assert_right(backend, pages([13, 40], [13, 3], heads=2 * group, kv_heads=2))


def test_a_group_larger_than_a_block_of_rows(backend):
    assert_right(backend, pages([9], [2], heads=80))


@pytest.mark.parametrize("head_dim", [8, 20, 64, 80, 96, 128, 256])
def test_every_head_dimension(backend, head_dim):
    assert_right(backend, pages([40], [10], head_dim=head_dim))


@pytest.mark.parametrize("block_size", [16, 128])
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 64, 200])
def test_a_sliding_window_of_any_width(backend, window, block_size):
    problem = pages([0, 1, 70, 150, 40], [0, 1, 70, 20, 2], block_size=block_size, sliding_window=window)
    assert_right(backend, problem)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_window_softcap_and_sinks_in_any_mixture(backend, window, softcap, sinks):
    options = {"sinks": torch.tensor([0.5, -1.0, 30.0, -torch.inf])} if sinks else {}
    problem = pages([1, 90, 35], [1, 12, 35], heads=4, kv_heads=2, sliding_window=window, softcap=softcap, **options)
    assert_right(backend, problem)


def rows(problem: Problem, chosen: slice) -> Problem:
    """Some rows of an extend problem, as a problem of their own."""
    start = problem.options["query_start"]
    first, last = int(start[chosen.start]), int(start[chosen.stop])
    return Problem(
        problem.query[first:last],
        problem.key_cache,
        problem.value_cache,
        problem.block_tables[chosen],
        problem.context_lens[chosen],
        {**problem.options, "query_start": start[chosen.start : chosen.stop + 1] - start[chosen.start]},
    )


def test_rows_together_equal_rows_one_by_one(backend):
    problem = pages([30, 1, 40, 25, 64], [30, 1, 1, 9, 40], heads=6, kv_heads=2)
    out, lse = backend(problem)
    parts = [backend(rows(problem, slice(i, i + 1))) for i in range(5)]
    assert_close(torch.cat([o for o, _ in parts]), out.double(), TOLERANCE[torch.float32])
    assert_close(torch.cat([x for _, x in parts]), lse.double(), TOLERANCE[torch.float32])


def test_one_token_a_row_equals_decode(backend):
    problem = pages([30, 1, 70], [1, 1, 1])
    decode = Problem(problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens)
    assert_close(backend(problem)[0], backend(decode)[0].double(), TOLERANCE[torch.float32])


@pytest.mark.parametrize("window", [None, 13])
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_a_prompt_in_chunks_equals_the_whole_prompt(backend, chunk, window):
    length = 20
    whole = pages([length], [length], sliding_window=window)
    out, _ = backend(whole)
    parts = []
    for first in range(0, length, chunk):
        last = min(first + chunk, length)
        part = Problem(
            whole.query[first:last],
            whole.key_cache,
            whole.value_cache,
            whole.block_tables,
            torch.tensor([last], dtype=torch.int32),
            {"query_start": torch.tensor([0, last - first], dtype=torch.int32), "sliding_window": window},
        )
        parts.append(backend(part)[0])
    assert_close(torch.cat(parts), out.double(), TOLERANCE[torch.float32])


def test_the_longest_query_only_sizes_the_work(backend):
    problem = pages([80, 20], [80, 5])
    out, _ = backend(problem)
    for longest in (0, 1, 80, 10_000):
        again, _ = backend(Problem(**{**vars(problem), "options": {**problem.options, "max_query_len": longest}}))
        assert_close(again, out.double(), TOLERANCE[torch.float32])
