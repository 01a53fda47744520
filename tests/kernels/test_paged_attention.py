"""What holds for decode and extend alike: tables, what may lie in unused memory, layouts and extreme values."""

import pytest
import torch

from chatpager.kernels import Workspace, paged_attention
from tests.kernels.pages import Backend, Problem, assert_right, far_apart, pages

KINDS = {"decode": None, "extend": [1, 20, 3]}
CONTEXTS = [1, 70, 40]


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def query_lens(request):
    return request.param


def test_the_positional_arguments_are_those_of_the_field():
    names = paged_attention.forward.__code__.co_varnames[:7]
    assert names == (
        "query", "key_cache", "value_cache", "block_tables", "context_lens", "block_size", "max_context_len",
    )  # fmt: skip


def test_pages_in_reverse_order(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.block_tables[1, :5] = problem.block_tables[1, :5].flip(0)
    assert_right(backend, problem)


def test_rows_that_share_pages(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.block_tables[2, :2] = problem.block_tables[1, :2]
    assert_right(backend, problem)


def test_one_page_twice_in_a_row(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.block_tables[1, :5] = problem.block_tables[1, 3]
    assert_right(backend, problem)


@pytest.mark.parametrize("garbage", [-1, 2**31 - 1, -(2**31), 10_000])
def test_entries_past_the_context_are_never_read(backend, query_lens, garbage):
    problem = pages(CONTEXTS, query_lens)
    tables = torch.full((3, 40), garbage, dtype=torch.int32)
    for row, context in enumerate(CONTEXTS):
        tables[row, : -(-context // 16)] = problem.block_tables[row, : -(-context // 16)]
    problem.block_tables = tables
    assert_right(backend, problem)


def test_entries_before_the_window_are_never_read(backend, query_lens):
    problem = pages(CONTEXTS, query_lens, sliding_window=10)
    expected = backend(problem)
    first_seen = 70 - (20 if query_lens else 1) - 10 + 1
    assert first_seen >= 16
    problem.block_tables[1, : first_seen // 16] = -1
    for actual, wanted in zip(backend(problem), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_tables_that_are_slices_of_a_larger_one(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    rows, columns = problem.block_tables.shape
    wide = torch.full((2 * rows, 2 * columns + 3), -1, dtype=torch.int32)
    for table in (wide[::2, :columns], wide[rows:, 1 : 2 * columns : 2]):
        table.copy_(problem.block_tables)
        problem.block_tables = table
        assert_right(backend, problem)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("window", [None, 10])
def test_unused_slots_do_not_matter_to_the_bit(backend, query_lens, poison, window):
    """Slots past the context, unused pages, and slots that no query's window reaches."""
    problem = pages(CONTEXTS, query_lens, sliding_window=window)
    used = torch.zeros(problem.key_cache.shape[:2], dtype=torch.bool)
    for row, context in enumerate(CONTEXTS):
        first = max(0, context - (query_lens[row] if query_lens else 1) - window + 1) if window else 0
        for position in range(first, context):
            used[problem.block_tables[row, position // 16], position % 16] = True
    results = []
    for filling in (0.0, poison):
        for cache in (problem.key_cache, problem.value_cache):
            cache[~used] = filling
        results.append(backend(problem))
    for clean, poisoned in zip(*results, strict=True):
        assert not clean.isnan().any()
        assert torch.equal(clean, poisoned)


def test_many_short_rows_ignore_unused_slots_to_the_bit(backend):
    lengths = [33, 34, 33, 40, 36, 38, 41, 39, 5, 7, 6, 9, 8, 5, 5, 6]
    problem = pages(lengths)
    used = torch.zeros(problem.key_cache.shape[:2], dtype=torch.bool)
    for row, context in enumerate(lengths):
        for position in range(context):
            used[problem.block_tables[row, position // 16], position % 16] = True
    results = []
    for filling in (0.0, torch.nan):
        problem.key_cache[~used] = problem.value_cache[~used] = filling
        results.append(backend(problem)[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scores_far_beyond_the_range_of_half_precision(backend, query_lens, size, dtype):
    problem = pages(CONTEXTS, query_lens, dtype=dtype, scale=1.0)
    problem.query *= size**0.5 / 4
    problem.key_cache *= size**0.5 / 4
    assert_right(backend, problem)


def test_all_scores_equal(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.key_cache.fill_(0.25)
    assert_right(backend, problem)


def test_large_values(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.value_cache *= 1e4
    assert_right(backend, problem)


def test_a_minus_infinity_in_a_key_hides_it(backend, query_lens):
    problem = pages(CONTEXTS, query_lens, head_dim=16)
    problem.query[..., 0] = 1.0
    problem.key_cache[problem.block_tables[1, 0], 3, :, 0] = -torch.inf
    assert_right(backend, problem)


def test_a_query_that_is_a_slice_of_a_fused_projection(backend, query_lens):
    problem = pages(CONTEXTS, query_lens, heads=4, kv_heads=2)
    tokens = problem.query.shape[0]
    fused = torch.randn(tokens, 8, 16)
    fused[:, :4] = problem.query
    problem.query = fused[:, :4]
    assert_right(backend, problem)


def test_a_query_with_heads_outside_and_with_a_strided_last_dimension(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    problem.query = problem.query.transpose(0, 1).contiguous().transpose(0, 1)
    assert_right(backend, problem)
    problem.query = problem.query.transpose(1, 2).contiguous().transpose(1, 2)
    assert_right(backend, problem)


def test_an_output_with_strides_of_its_own(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    tokens, heads, head_dim = problem.query.shape
    larger = torch.full((heads, tokens, head_dim + 5), 7.0, device=backend.device)
    problem = problem.to(backend.device).with_options(out=larger[:, :, :head_dim].transpose(0, 1))
    out, _ = backend(problem)
    del problem.options["out"]
    assert torch.equal(out, backend(problem)[0])
    assert (larger[:, :, head_dim:] == 7.0).all()


def test_caches_with_heads_before_slots(backend, query_lens):
    problem = pages(CONTEXTS, query_lens, heads=4, kv_heads=2)
    problem.key_cache, problem.value_cache = (
        cache.transpose(1, 2).contiguous().transpose(1, 2) for cache in (problem.key_cache, problem.value_cache)
    )
    assert problem.key_cache.stride(1) < problem.key_cache.stride(2)
    assert_right(backend, problem)


def test_caches_with_keys_and_values_side_by_side(backend, query_lens):
    problem = pages(CONTEXTS, query_lens, heads=4, kv_heads=2)
    both = torch.cat([problem.key_cache, problem.value_cache], dim=-1)
    problem.key_cache, problem.value_cache = both[..., :16], both[..., 16:]
    assert_right(backend, problem)


def test_caches_that_are_one_layer_of_a_larger_tensor(backend):
    problem = pages([33] * 17 + [5])
    layers = torch.randn(problem.key_cache.shape[0], 3, *problem.key_cache.shape[1:])
    layers[:, 1] = problem.key_cache
    problem.key_cache, problem.value_cache = layers[:, 1], layers[:, 2]
    assert_right(backend, problem)


@pytest.mark.parametrize("block_size", [16, 128])
def test_blocks_beyond_two_to_the_31_elements(backend, query_lens, block_size, tmp_path):
    """Small and large pages: the kernels look up a page for every token, or one for a whole tile."""
    dtype = torch.bfloat16 if backend.name == "cpu" else torch.float16  # of 16 bits, and such as numba serves
    problem = pages([2 * block_size + 1], query_lens and [7], block_size=block_size, dtype=dtype)
    far = far_apart(tmp_path / "cache", block_size, 1, 16).view(dtype)
    for block, near in zip((2, 0, 1), problem.block_tables[0, :3], strict=True):
        far[block] = problem.key_cache[near]
    problem.key_cache = problem.value_cache = far
    problem.block_tables = torch.tensor([[2, 0, 1]], dtype=torch.int32)
    assert_right(backend, problem)


def test_asking_for_the_log_sum_exp_changes_nothing_else(backend, query_lens):
    problem = pages(CONTEXTS, query_lens)
    assert torch.equal(backend(problem, return_lse=False)[0], backend(problem)[0])


def test_without_an_output_a_new_one_is_made():
    problem = pages([40, 3])
    tensors = problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens
    assert torch.equal(paged_attention.forward(*tensors, 16, 40), Backend("cpu")(problem)[0])


def test_a_workspace_may_serve_calls_of_any_shape(backend):
    workspace = Workspace()
    for lengths, query_lens in (([300, 5], None), ([4], [4]), ([40] * 16, None), ([500, 9], [7, 9])):
        problem = pages(lengths, query_lens)
        out, _ = backend(problem)
        again, _ = backend(Problem(**{**vars(problem), "options": {**problem.options, "workspace": workspace}}))
        assert torch.equal(out, again)
