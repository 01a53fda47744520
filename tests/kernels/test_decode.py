"""One token a row: lengths, shapes of heads, features and their corners, on every backend."""

import pytest
import torch

from chatpager.kernels.heuristics import Splits, decode_tiling
from tests.kernels.pages import assert_right, pages

TILE = decode_tiling(16, 2, 4, 1 << 20).tile
"""Tokens a program takes at a time in single precision, small heads."""


@pytest.mark.parametrize("block_size", [8, 16, 24, 64, 128])
def test_every_length_around_a_block_and_a_tile(backend, block_size):
    lengths = [0, 1, block_size - 1, block_size, block_size + 1, TILE - 1, TILE, TILE + 1, 131]
    assert_right(backend, pages(lengths, block_size=block_size))


@pytest.mark.parametrize("block_size", [32, 48, 256])
def test_other_block_sizes(backend, block_size):
    assert_right(backend, pages([1, block_size + 1, 150], block_size=block_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype(backend, dtype):
    if dtype not in backend.dtypes:
        with pytest.raises(TypeError, match="query must be a tensor"):
            backend(pages([1], dtype=dtype))
        return
    assert_right(backend, pages([1, 20, 200], heads=4, kv_heads=2, head_dim=32, dtype=dtype))


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32])
def test_any_number_of_query_heads_share_a_kv_head(backend, group):
    assert_right(backend, pages([1, 33], heads=2 * group, kv_heads=2))


@pytest.mark.parametrize("head_dim", [8, 16, 20, 32, 64, 80, 96, 128, 192, 256])
def test_every_head_dimension(backend, head_dim):
    assert_right(backend, pages([1, 70], head_dim=head_dim))


@pytest.mark.parametrize("block_size", [16, 128])
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, TILE, 200])
def test_a_sliding_window_of_any_width(backend, window, block_size):
    assert_right(backend, pages([0, 1, 16, 17, 150], block_size=block_size, sliding_window=window))


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_window_softcap_and_sinks_in_any_mixture(backend, window, softcap, sinks):
    options = {"sinks": torch.tensor([0.5, -1.0, 30.0, -torch.inf])} if sinks else {}
    problem = pages([0, 1, 30, 140], heads=4, kv_heads=2, sliding_window=window, softcap=softcap, **options)
    assert_right(backend, problem)


def test_sinks_may_have_another_dtype_than_the_query(backend):
    assert_right(backend, pages([0, 5], sinks=torch.tensor([1.0, -2.0], dtype=torch.bfloat16)))


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_the_scale_may_be_given(backend, scale):
    assert_right(backend, pages([1, 40], scale=scale))


def test_a_row_alone_and_in_a_batch_agree_to_the_bit(triton_backend):
    problem = pages([300, 5, 90, 1, 16], heads=4)
    fixed = Splits(128, 64)  # more pieces than there are: they are all of 128 tokens, whatever the batch
    together, _ = triton_backend(problem, fixed)
    for row in range(5):
        alone = pages([300, 5, 90, 1, 16], heads=4)
        alone.query, alone.context_lens = alone.query[row : row + 1], alone.context_lens[row : row + 1]
        alone.block_tables = alone.block_tables[row : row + 1]
        out, _ = triton_backend(alone, fixed)
        assert torch.equal(out[0], together[row])


def test_repeats_agree_to_the_bit(backend):
    problem = pages([700, 33, 1], heads=6, kv_heads=2)
    first, first_lse = backend(problem)
    for _ in range(2 if backend.name == "triton-interpret" else 20):
        out, lse = backend(problem)
        assert torch.equal(out, first)
        assert torch.equal(lse, first_lse)


def test_one_long_row_among_many_short_ones(backend):
    assert_right(backend, pages([1, 3, 700, 2, 1]))


def test_many_rows_of_like_and_unlike_length(backend):
    """On the CPU these are gathered in groups: full and padded ones, single rows, and rows without context."""
    lengths = [33, 34, 33, 0, 40, 36, 38, 41, 39, 0, 37, 35, 700, *[100] * 9]
    problem = pages(lengths)
    assert_right(backend, problem)
    assert_right(backend, problem.with_options(sliding_window=35))


def test_rows_without_context_when_only_the_output_is_asked_for(backend):
    problem = pages([0, 3])
    out, _ = backend(problem, return_lse=False)
    assert torch.equal(out, backend(problem)[0])


def test_no_rows_at_all(backend):
    problem = pages([])
    out, lse = backend(problem)
    assert out.shape == (0, 2, 16)
    assert lse.shape == (0, 2)
