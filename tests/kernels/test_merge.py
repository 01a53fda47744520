"""Contexts split over programs: any cut gives the same attention."""

import pytest
import torch

from chatpager.kernels.heuristics import Splits
from tests.kernels.pages import TOLERANCE, assert_close, assert_right, pages

pytestmark = pytest.mark.no_cover  # other tests cover the same, and the interpreter takes twice as long
CUTS = [Splits(64, 1), Splits(64, 2), Splits(64, 3), Splits(128, 2), Splits(192, 5), Splits(64, 9)]
PIECES = [Splits(1, 1), Splits(1, 2), Splits(1, 4), Splits(64, 50), Splits(128, 3)]


@pytest.mark.parametrize("splits", PIECES, ids=str)
def test_decode_does_not_depend_on_the_cut(triton_backend, splits):
    problem = pages([0, 1, 64, 65, 260], sinks=torch.tensor([0.5, 3.0]))
    assert_right(triton_backend, problem, splits)


@pytest.mark.parametrize("splits", CUTS, ids=str)
def test_extend_does_not_depend_on_the_cut(triton_backend, splits):
    problem = pages([200, 9], [20, 9], sinks=torch.tensor([0.5, 3.0]))
    assert_right(triton_backend, problem, splits)


@pytest.mark.parametrize("splits", CUTS[1:4], ids=str)
@pytest.mark.parametrize("window", [1, 63, 64, 65, 100])
def test_a_window_may_cross_splits(triton_backend, splits, window):
    assert_right(triton_backend, pages([1, 64, 200], sliding_window=window), Splits(64, 3 * splits.count))
    assert_right(triton_backend, pages([1, 200], [1, 20], sliding_window=window), splits)


def test_more_pieces_than_are_merged_at_once(triton_backend):
    assert_right(triton_backend, pages([1500, 3]), Splits(64, 64))


def test_a_plan_too_short_for_the_context_is_right_all_the_same(triton_backend):
    problem = pages([700, 20])
    problem.max_context_len = 1
    assert_right(triton_backend, problem)
    assert_right(triton_backend, problem, Splits(64, 2))


def test_a_plan_far_too_long_is_right_all_the_same(triton_backend):
    problem = pages([70, 20])
    problem.max_context_len = 100_000
    assert_right(triton_backend, problem)


def test_one_huge_key_wins_wherever_it_lies(backend):
    for at in (0, 63, 64, 100, 149):
        problem = pages([150])
        row = problem.block_tables[0, at // 16], at % 16
        problem.key_cache[row] = problem.query[0, :1] * 1000
        problem.max_context_len = 150
        assert_right(backend, problem)
        if backend.name != "cpu":
            assert_right(backend, problem, Splits(64, 3))


def test_merging_keeps_the_order_whatever_ran_first(triton_backend):
    problem = pages([300, 40])
    first, _ = triton_backend(problem, Splits(64, 5))
    for _ in range(3):
        assert torch.equal(triton_backend(problem, Splits(64, 5))[0], first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_partials_keep_single_precision(triton_backend, dtype):
    if dtype not in triton_backend.dtypes:
        return
    problem = pages([500], dtype=dtype)
    whole, _ = triton_backend(problem, Splits(512, 1))
    cut, _ = triton_backend(problem, Splits(128, 4))
    assert_close(cut, whole.double(), TOLERANCE[dtype] / 2)
