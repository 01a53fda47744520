"""How the CPU backend groups rows and cuts long contexts; that the result is right is tested with the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatpager.kernels import Workspace, cpu
from tests.kernels.pages import TOLERANCE, Backend, assert_close, assert_right, pages

LENGTHS = st.lists(st.one_of(st.integers(0, 60), st.integers(0, 5000)), max_size=80)


def runs(lengths, token_bytes=512):
    rows = [row for row, n in enumerate(lengths) if n]
    return cpu.plan_runs(rows, [(7, 7 + n) for n in lengths], token_bytes)


@given(LENGTHS, st.sampled_from([64, 1024, 16_384]))
def test_rows_of_a_run_are_alike_and_fit_the_cache_together(lengths, token_bytes):
    together = [row for run in runs(lengths, token_bytes) for row in run]
    assert len(set(together)) == len(together)
    assert all(lengths[row] for row in together)
    for run in runs(lengths, token_bytes):
        ordered = [lengths[row] for row in run]
        assert ordered == sorted(ordered)
        assert len(run) >= 8
        assert ordered[-1] <= ordered[0] * 1.25 + 16
        assert len(run) * ordered[-1] * token_bytes <= cpu.RUN_BYTES


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([100] * 64, [20, 20, 20]),  # many short ones; the last four are too few to prepare for
        ([50] * 16, [16]),
        ([50] * 15, []),  # few
        ([4000] * 20, []),  # long
        (list(range(100, 2000, 100)), []),  # unlike
        ([50] * 9 + [200] * 7, []),  # enough of neither
        ([], []),
    ],
)
def test_many_short_rows_share_calls_and_few_or_long_or_unlike_ones_do_not(lengths, sizes):
    assert [len(run) for run in runs(lengths)] == sizes


@pytest.mark.parametrize(
    "options", [{}, {"softcap": 2.0}, {"sliding_window": 150}, {"sinks": torch.tensor([1.0, -1.0])}]
)
def test_a_context_in_pieces_is_the_context(monkeypatch, options):
    backend = Backend("cpu")
    for problem in (pages([300, 5], **options), pages([300, 40], [20, 40], **options)):
        whole, _ = backend(problem)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "PIECE_BYTES", 1)  # one page at a time
            assert_right(backend, problem)
            assert_close(backend(problem)[0], whole.double(), TOLERANCE[torch.float32])


def test_the_workspace_does_not_grow_with_the_context(monkeypatch):
    monkeypatch.setattr(cpu, "PIECE_BYTES", 16 * 1024)
    workspace = Workspace()
    for context in (100, 2000):
        Backend("cpu")(pages([context], workspace=workspace))
    assert sum(b.nbytes for b in workspace._buffers.values()) <= 16 * 1024


def test_more_masked_queries_than_one_call_takes(monkeypatch):
    monkeypatch.setattr(cpu, "MASKED_QUERIES", 8)
    for options in ({"softcap": 2.0}, {"sliding_window": 9}):
        assert_right(Backend("cpu"), pages([30, 50], [30, 21], **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_in_groups_in_half_precision(dtype):
    for softcap in (None, 3.0):
        assert_right(Backend("cpu"), pages([*range(40, 58), 300], heads=4, dtype=dtype, softcap=softcap))
