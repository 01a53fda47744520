"""Tilings and splits hold what the kernels rely on, for every shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.kernels import heuristics
from chatpager.kernels.heuristics import decode_splits, decode_tiling, extend_splits, extend_tiling, power_of_2

DIMENSIONS = st.sampled_from([8, 16, 32, 64, 80, 96, 128, 192, 256])
SHARED = st.sampled_from([65_536, 101_376, 166_912, 232_448])


@given(DIMENSIONS, st.integers(1, 128), st.sampled_from([2, 4]), SHARED, st.integers(0, 10_000))
def test_a_group_fits_the_rows_and_tiles_are_powers_of_two(head_dim, group, itemsize, shared, longest):
    decode = decode_tiling(head_dim, group, itemsize, shared)
    extend = extend_tiling(head_dim, group, itemsize, longest, shared)
    for tiling in (decode, extend):
        assert tiling.rows >= group
        for n in (tiling.rows, tiling.tile, tiling.num_warps):
            assert n & (n - 1) == 0
        assert min(tiling.rows, tiling.tile) >= 16
    if itemsize == 2:
        assert extend.rows >= 64


@given(st.integers(1, 5000), st.integers(0, 1 << 20), st.sampled_from([16, 32, 64, 128]), st.integers(1, 304))
def test_splits_cover_the_context_in_whole_tiles(programs, longest, tile, processors):
    splits = extend_splits(programs, longest, tile, processors)
    assert splits.chunk % tile == 0
    assert splits.chunk >= heuristics.MIN_SPLIT
    assert 1 <= splits.count <= heuristics.MAX_SPLITS
    assert splits.chunk * splits.count >= longest
    assert splits.chunk * (splits.count - 1) < max(longest, 1)


@given(st.integers(1, 5000), st.integers(0, 1 << 20), st.integers(1, 304))
def test_partial_results_of_extend_take_up_two_rounds_of_programs_at_most(programs, longest, processors):
    splits = extend_splits(programs, longest, 64, processors)
    assert splits.count == 1 or splits.count * programs <= 2 * processors


@pytest.mark.parametrize(
    ("rows", "longest", "decode", "extend"),
    [
        (1, 200, 1, 1),  # one short row: nothing to gain
        (1, 32_768, 66, 32),  # one long row: every processor gets a piece
        (16, 32_768, 66, 2),  # 512 new tokens on a long prefix, for extend
        (512, 1024, 1, 1),  # work enough for all
        (512, 32_768, 66, 1),  # the same with a long row among them: in decode it must not run alone at the end
    ],
)
def test_splits_follow_the_work(rows, longest, decode, extend):
    assert decode_splits(rows, 8, longest, 132).count == decode
    assert extend_splits(rows * 8, longest, 64, 132).count == extend


@given(st.integers(1, 1 << 30))
def test_power_of_2_is_the_least_that_is_enough(n):
    p = power_of_2(n)
    assert p & (p - 1) == 0
    assert n <= p < 2 * n


def test_power_of_2_of_nothing_is_one():
    assert power_of_2(0) == 1
