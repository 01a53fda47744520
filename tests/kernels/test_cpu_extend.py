"""Prompts and decode by the processor's products of bfloat16: any shape, and the same bits in any cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatpager.kernels import cpu, cpu_code, cpu_decode, cpu_linear
from tests.kernels.pages import Backend, assert_right, pages

BACKEND = Backend("cpu")
DTYPE = torch.bfloat16

pytestmark = pytest.mark.skipif(not cpu_linear.has_dots(), reason="needs AVX-512 BF16 without AMX")


def used(patch, threads=1):
    """No other way to compute is open, and no call is too small to share."""
    for name in ("_decode_gathered", "_extend"):
        patch.setattr(cpu, name, None)
    patch.setattr(cpu_decode, "kernel", None)
    patch.setattr(cpu_code, "SHARED_BYTES", 0)
    patch.setattr(torch, "get_num_threads", lambda: threads)


@given(
    rows=st.lists(st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 300)), st.integers(0, 300)), max_size=5),
    decodes=st.booleans(),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 5, 9, 130]),
    head_dim=st.sampled_from([32, 64, 96, 128]),
    block_size=st.sampled_from([8, 16, 24, 48]),
    window=st.one_of(st.none(), st.integers(1, 120)),
    sinks=st.booleans(),
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_anything_it_serves(rows, decodes, kv_heads, group, head_dim, block_size, window, sinks, threads, seed):
    options = {"sinks": torch.randn(kv_heads * group).to(DTYPE)} if sinks else {}
    problem = pages(
        [context for context, _ in rows], None if decodes else [min(new, context) for context, new in rows],
        heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=DTYPE, seed=seed,
        sliding_window=window, **options,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        used(patch, threads)
        assert_right(BACKEND, problem)


@pytest.mark.parametrize("window", [None, 37, 100])
def test_a_token_has_the_same_bits_in_any_chunk_and_with_any_threads(window, monkeypatch):
    """What a session computed and what another computes from its cached prefix are the same."""
    whole = pages([300], [300], heads=6, kv_heads=2, head_dim=64, dtype=DTYPE, sliding_window=window)
    used(monkeypatch)
    out, lse = BACKEND(whole)
    for threads in (1, 2, 3):
        used(monkeypatch, threads)
        again = BACKEND(whole)
        assert torch.equal(again[0], out)
        assert torch.equal(again[1], lse)
    for start, stop in ((0, 1), (0, 63), (17, 130), (64, 300), (299, 300)):
        part = pages([stop], [stop - start], dtype=DTYPE, sliding_window=window)
        part.key_cache, part.value_cache = whole.key_cache, whole.value_cache
        part.block_tables, part.query = whole.block_tables, whole.query[start:stop]
        found = BACKEND(part)
        assert torch.equal(found[0], out[start:stop])
        assert torch.equal(found[1], lse[start:stop])


def test_a_few_tokens_behind_many_are_worth_more_than_one_thread(monkeypatch):
    seen, run = [], cpu_code.Kernel.run
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu_code.Kernel, "run", lambda *given: seen.append(given[-1]) or run(*given))
    for context in (16, 1024):
        BACKEND(pages([context], [8], head_dim=64, kv_heads=2, heads=4, dtype=DTYPE))
    assert seen == [1, 2]


def test_a_decode_has_the_bits_of_a_prompt(monkeypatch):
    used(monkeypatch)
    for context in (1, 32, 200):
        prompt = pages([context], [1], heads=6, kv_heads=2, head_dim=64, dtype=DTYPE)
        out, _ = BACKEND(prompt)
        del prompt.options["query_start"]
        assert torch.equal(BACKEND(prompt)[0], out)


@pytest.mark.parametrize("queries", [None, [1], [40]], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["query", "key_cache", "value_cache"])
def test_what_is_not_finite_shows_where_it_belongs(name, bad, queries):
    problem = pages([40, 40], queries and queries * 2, heads=4, kv_heads=2, head_dim=32, dtype=DTYPE)
    if name == "query":
        problem.query[0, 0, 3] = bad
    else:
        getattr(problem, name)[problem.block_tables[0, 0], 0, 0, 2] = bad  # of the first token, which all see
    out, _ = BACKEND(problem)
    expected, _ = problem.expected()
    assert torch.equal(out.isfinite(), expected.isfinite())


def test_scores_that_differ_by_more_than_an_exponent_holds(monkeypatch):
    used(monkeypatch)
    for scale in (1e-6, 30.0):
        assert_right(BACKEND, pages([100], [90], head_dim=32, dtype=DTYPE, scale=scale))


@pytest.mark.parametrize("queries", [None, [3, 3]], ids=str)
@pytest.mark.parametrize("block", [-1, None, 2**31 - 1])
def test_a_block_that_is_none_is_refused_where_a_context_reaches_it(block, queries):
    problem = pages([40, 3], queries, head_dim=32, dtype=DTYPE)
    problem.block_tables[0, 2] = len(problem.key_cache) if block is None else block
    with pytest.raises(IndexError):
        BACKEND(problem)
    problem.context_lens[0] = 32
    assert_right(BACKEND, problem)


@pytest.mark.parametrize("queries", [None, [3, 3]], ids=str)
def test_no_entry_wholly_before_a_window_is_read(queries):
    problem = pages([40, 200], queries, head_dim=32, dtype=DTYPE, sliding_window=20)
    expected = problem.expected()
    problem.block_tables[1, : (200 - 3 - 20) // 16] = -1
    for found, exact in zip(BACKEND(problem), expected, strict=True):
        torch.testing.assert_close(found.float(), exact.float(), rtol=0.02, atol=0.02)


def test_where_it_cannot_be_had_the_others_compute(monkeypatch):
    monkeypatch.setattr("chatpager.kernels.cpu_extend.kernel_of", lambda room, name: None)
    monkeypatch.setattr(
        cpu_decode, "kernel_of", lambda room, name: None if room == "cpu_extend_jit" else cpu_code.kernel_of(room, name)
    )
    for queries in (None, [30]):
        assert_right(BACKEND, pages([40], queries, head_dim=32, dtype=DTYPE))
