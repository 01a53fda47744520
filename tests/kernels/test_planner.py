"""Which pieces of which contexts the device plans: every token once, none too small, no more than there are places."""

import pytest
import torch

from chatpager.kernels import Workspace
from chatpager.kernels.heuristics import Splits, power_of_2
from tests.kernels.pages import pages

pytestmark = pytest.mark.no_cover
TILE = 32


def plan(device, lengths, least, wanted, window=None, shared=None):
    """The pieces of each row as (first, stop), and how many places of the list are nobody's."""
    from chatpager.kernels.cuda import on_device
    from chatpager.kernels.planner import plan_kernel

    batch, places = len(lengths), len(lengths) + wanted
    items = torch.full((places, 4), -7, dtype=torch.int32, device=device)
    rows = torch.full((batch, 2), -7, dtype=torch.int32, device=device)
    contexts = torch.tensor(lengths, dtype=torch.int32, device=device)
    with on_device(contexts):
        plan_kernel[(batch,)](
            items, rows, contexts, shared, batch, window or 0, least, wanted, places,
            HAS_WINDOW=window is not None, SHARED=shared is not None, TILE=TILE, BATCH=power_of_2(batch), WIDTH=16,
        )  # fmt: skip
    listed = items.tolist()
    found = []
    for row, (first, count) in enumerate(rows.tolist()):
        own = listed[first : first + count]
        assert all(item[0] == row for item in own)
        found.append([(start, stop) for _, start, stop, _ in own])
    assert all(item[0] in range(-1, batch) for item in listed)
    free = sum(item[0] == -1 for item in listed)
    assert free + sum(map(len, found)) == places
    return found, free


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("wanted", [2, 9, 64])
@pytest.mark.parametrize("lengths", [[0], [1000], [1, 0, 33, 700], [96, 97, 95, 64, 5000, 1, 2, 3]], ids=str)
def test_every_token_is_in_one_piece(triton_backend, lengths, wanted, window):
    found, _ = plan(triton_backend.device, lengths, 64, wanted, window)
    for length, pieces in zip(lengths, found, strict=True):
        first = max(length - window, 0) // TILE * TILE if window else 0
        assert pieces[0][0] == first and pieces[-1][1] == length
        assert [stop for _, stop in pieces[:-1]] == [start for start, _ in pieces[1:]]
        assert all(start % TILE == 0 for start, _ in pieces)
        sizes = [stop - start for start, stop in pieces]
        assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
        assert len(sizes) == 1 or sizes[0] >= 64


def test_a_long_row_among_short_ones_is_cut_by_its_share_of_the_work(triton_backend):
    found, free = plan(triton_backend.device, [512] * 15 + [8192], 256, 66)
    assert [len(pieces) for pieces in found[:-1]] == [2] * 15
    assert len(found[-1]) == 32
    assert free == 16 + 66 - 62


def test_even_rows_that_fill_the_device_are_left_whole(triton_backend):
    found, _ = plan(triton_backend.device, [4096] * 64, 256, 66)
    assert all(pieces == [(0, 4096)] for pieces in found)


def test_layers_of_one_step_share_a_plan(triton_backend):
    """What a second layer finds is not planned again: it was made for the first one's lengths."""
    plans, workspace = {}, Workspace()
    problem = pages([300, 20], seed=1, plans=plans, workspace=workspace)
    first, _ = triton_backend(problem, Splits(64, 8))
    kept = dict(plans)
    assert len(kept) == 1
    again, _ = triton_backend(problem, Splits(64, 8))
    assert torch.equal(first, again)
    assert plans == kept and all(plans[key] is kept[key] for key in kept)
    triton_backend(problem.with_options(sliding_window=40), Splits(64, 8))
    assert len(plans) == 2
