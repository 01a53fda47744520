"""Rows that begin with the same pages attend to them once, and get what they get alone."""

import pytest
import torch

from chatpager.kernels import Workspace, paged_attention
from chatpager.kernels.arguments import EIGHT_BITS, SharedPrefix
from chatpager.kernels.heuristics import Splits, shares_prefix
from tests.kernels.pages import TOLERANCE, assert_close, pages
from tests.kernels.test_eight_bits import quantised

pytestmark = pytest.mark.no_cover


def sharing(problem, groups, device):
    """``groups`` are (rows, blocks): their tables begin with those of the first row."""
    size, of_row = problem.key_cache.shape[1], [0] * len(problem.context_lens)
    for rows, blocks in groups:
        for row in rows:
            of_row[row] = blocks * size
            problem.block_tables[row, :blocks] = problem.block_tables[rows[0], :blocks]

    def numbers(values):
        return torch.tensor(values, dtype=torch.int32, device=device)

    starts = [sum(len(rows) for rows, _ in groups[:i]) for i in range(len(groups) + 1)]
    members = [row for rows, _ in groups for row in rows]
    lengths = [blocks * size for _, blocks in groups]
    return SharedPrefix(numbers(starts), numbers(members), numbers(lengths), numbers(of_row), max(lengths))


def assert_as_alone(backend, problem, groups, exact=None, splits=None, tolerance=None):
    shared = sharing(problem, groups, backend.device)
    if exact is not None:
        exact.block_tables = problem.block_tables
    wanted = (exact or problem).expected()
    tolerance = tolerance or TOLERANCE[problem.query.dtype]
    for got, right in zip(backend(problem.with_options(shared=shared), splits), wanted, strict=True):
        assert_close(got, right, tolerance)


CASES = {
    "all rows": ([80, 33, 47], [([0, 1, 2], 2)]),
    "two groups among others, in any order": ([70, 9, 700, 64, 650, 0, 100], [([4, 2], 39), ([6, 0, 3], 3)]),
    "one alone": ([50, 40], [([1], 2)]),
    "nothing behind it": ([32, 48, 32], [([0, 1, 2], 2)]),
    "more members than rows of a product": ([20] * 34, [(list(range(1, 34)), 1)]),
}


@pytest.mark.parametrize("block_size", [8, 64])
@pytest.mark.parametrize("case", CASES)
def test_rows_get_what_they_get_alone(triton_backend, case, block_size):
    lengths, groups = CASES[case]
    lengths = [n * block_size // 16 for n in lengths]
    kv_heads = 1 if len(lengths) > 10 else 2
    problem = pages(lengths, heads=2 * kv_heads, kv_heads=kv_heads, block_size=block_size)
    assert_as_alone(triton_backend, problem, groups)


@pytest.mark.parametrize("splits", [None, Splits(64, 1), Splits(64, 9)], ids=str)
@pytest.mark.parametrize("options", [{"sinks": torch.tensor([0.5, 3.0])}, {"softcap": 2.0}, {"scale": 0.3}], ids=str)
def test_under_every_option(triton_backend, options, splits):
    problem = pages([600, 640, 300, 20], **options)
    assert_as_alone(triton_backend, problem, [([0, 1], 37)], splits=splits)


def test_in_half_precision_and_over_eight_bits(triton_backend):
    groups = [([0, 2], 6), ([1, 3], 2)]
    problem = pages([100, 60, 130, 50], dtype=torch.float16, head_dim=64)
    assert_as_alone(triton_backend, problem, groups)
    problem, exact = quantised(pages([100, 60, 130, 50], heads=4, kv_heads=2), torch.int8)
    assert torch.int8 in EIGHT_BITS
    assert_as_alone(triton_backend, problem, groups, exact, tolerance=4 * TOLERANCE[torch.float32])


def test_layers_of_one_step_share_a_plan(triton_backend):
    problem = pages([100, 60, 130], plans={}, workspace=Workspace())
    shared = sharing(problem, [([0, 2], 5)], triton_backend.device)
    first, _ = triton_backend(problem.with_options(shared=shared))
    plans = problem.options["plans"]
    again, _ = triton_backend(problem.with_options(shared=shared))
    assert len(plans) == 1
    assert torch.equal(first, again)


def test_a_cpu_does_not_look_at_it():
    problem = pages([40, 50])
    shared = sharing(problem, [([0, 1], 1)], "cpu")
    given = problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens, 16, 50
    assert torch.equal(paged_attention.forward(*given, shared=shared), paged_attention.forward(*given))


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"sliding_window": 9}, ValueError, "without a sliding_window"),
        ({}, {"query_start": torch.tensor([0, 1, 2]).int()}, ValueError, "in decode"),
        ({"members": torch.zeros(2)}, {}, TypeError, "shared.members must be .* torch.float32"),
        ({"starts": torch.zeros(3).int()}, {}, ValueError, "one more start than lengths"),
        ({"of_row": torch.zeros(3).int()}, {}, ValueError, "each of 2 rows"),
        ({"lengths": torch.zeros(1, device="meta").int()}, {}, ValueError, "shared.lengths is on meta"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, error, words):
    problem = pages([40, 50])
    shared = sharing(problem, [([0, 1], 1)], "cpu")._replace(**change)
    given = problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens, 16, 50
    with pytest.raises(error, match=words):
        paged_attention.forward(*given, shared=shared, **options)


@pytest.mark.parametrize(
    ("members", "tokens", "group", "pays"),
    [
        (64, 2048, 4, True),  # 64 conversations with one system prompt
        (16, 2048, 4, True),
        (15, 2048, 4, False),  # fewer rows than one product has
        (8, 4000, 8, True),
        (64, 1023, 4, False),  # short: it stays in the second-level cache
        (64, 1024, 1, True),
        (2, 100_000, 32, True),
    ],
)
def test_prefixes_are_shared_where_the_table_says_that_it_pays(members, tokens, group, pays):
    assert shares_prefix(members, tokens, group, token_bytes=2 * 8 * 128 * 2) is pays
