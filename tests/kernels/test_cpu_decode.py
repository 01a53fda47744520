"""The kernel that reads pages in place: that it is there and used, how work is cut, and what stands in without it.

That it gives the right numbers is tested with the other backends.
"""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatpager.kernels import cpu, cpu_code, cpu_decode, paged_attention, store_kv
from tests.kernels.pages import TOLERANCE, Backend, assert_close, assert_right, pages

BACKEND = Backend("cpu")


@pytest.fixture
def without_a_kernel(monkeypatch):
    monkeypatch.setattr(cpu_decode, "kernel", lambda name: None)


@pytest.fixture
def threads(monkeypatch):
    """Threads of this machine, or more than it has, and no call too small to share."""
    monkeypatch.setattr(cpu_code, "SHARED_BYTES", 0)

    def use(count):
        torch.set_num_threads(count)

    yield use
    torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", cpu_decode.SERVED, ids=str)
def test_decode_does_not_gather_and_torch_is_not_asked(monkeypatch, dtype):
    monkeypatch.setattr(cpu, "_decode_gathered", None)
    assert_right(BACKEND, pages([0, 1, 100], heads=6, kv_heads=2, dtype=dtype))


@given(
    lengths=st.lists(st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 300)), max_size=6),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 9),
    head_dim=st.integers(1, 70),
    block_size=st.sampled_from([8, 16, 24, 48]),
    dtype=st.sampled_from(list(cpu_decode.SERVED)),
    window=st.one_of(st.none(), st.integers(1, 120)),
    softcap=st.one_of(st.none(), st.floats(0.5, 50)),
    sinks=st.booleans(),
    count=st.integers(1, 5),
)
def test_anything_it_serves(lengths, kv_heads, group, head_dim, block_size, dtype, window, softcap, sinks, count):
    options = {"sinks": torch.randn(kv_heads * group)} if sinks else {}
    problem = pages(
        lengths, heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size, dtype=dtype,
        sliding_window=window, softcap=softcap, **options,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_code, "SHARED_BYTES", 0)
        patch.setattr(torch, "get_num_threads", lambda: count)
        assert_right(BACKEND, problem)


@pytest.mark.parametrize("count", [2, 3, 7, 40])
@pytest.mark.parametrize("lengths", [[1], [15], [16], [17], [5000], [300, 0, 1, 1, 700], [33] * 9])
def test_a_context_cut_for_many_threads_is_the_context(threads, lengths, count):
    problem = pages(lengths, heads=4, kv_heads=2)
    whole = BACKEND(problem)
    threads(count)
    assert_right(BACKEND, problem)
    again = [BACKEND(problem) for _ in range(3)]
    for out, lse in again:
        assert torch.equal(out, again[0][0])  # whoever takes which part
        assert torch.equal(lse, again[0][1])
        assert_close(out, whole[0].double(), TOLERANCE[torch.float32])


def test_small_calls_and_a_torch_without_an_entry_take_one_thread(monkeypatch):
    torch.set_num_threads(2)
    asked = []
    monkeypatch.setattr(cpu_code, "_team", lambda: asked.append(1))
    problem = pages([40, 3])
    assert_right(BACKEND, problem)
    assert not asked
    monkeypatch.setattr(cpu_code, "SHARED_BYTES", 0)
    assert_right(BACKEND, problem)
    assert asked


def test_one_thread_borrows_no_team(monkeypatch):
    monkeypatch.setattr(cpu_code, "SHARED_BYTES", 0)
    monkeypatch.setattr(cpu_code, "_team", None)
    assert_right(BACKEND, pages([40, 3]))


def test_torch_has_an_entry_here():
    assert cpu_code._team.__wrapped__() is not None


def test_without_a_kernel_torch_decodes_and_stores(without_a_kernel):
    assert_right(BACKEND, pages([40, 3, 0], dtype=torch.bfloat16))
    caches = torch.zeros(2, 3, 8, 2, 4)
    new = torch.ones(2, 2, 2, 4)
    store_kv(*new, *caches, torch.tensor([9, -1]))
    assert caches.sum() == 2 * 8
    assert (caches[:, 1, 1] == 1).all()


def test_a_kernel_that_cannot_be_had_is_told_once(monkeypatch, caplog, tmp_path):
    from chatpager.kernels import cpu_jit

    def fails(name):
        raise RuntimeError("LLVM is unwell")

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpu_jit, "compiled", fails)
    monkeypatch.setattr(cpu_decode, "kernel_of", cpu_code.kernel_of.__wrapped__)
    with caplog.at_level(logging.WARNING):
        assert cpu_decode.kernel("float32") is None
    assert "LLVM is unwell" in caplog.text
    assert_right(BACKEND, pages([40, 3]))


def test_a_nan_or_an_infinity_in_a_key_or_value_shows():
    for bad in (torch.nan, torch.inf):
        for name in ("key_cache", "value_cache"):
            problem = pages([40])
            getattr(problem, name)[problem.block_tables[0, 1], 3, 0, 2] = bad
            out, _ = BACKEND(problem)
            expected, _ = problem.expected()
            assert torch.equal(out.isfinite(), expected.isfinite())


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("block", [-1, None, 2**31 - 1])
@pytest.mark.parametrize("dtype", cpu_decode.SERVED, ids=str)
def test_a_block_that_is_none_is_refused_where_a_context_reaches_it(monkeypatch, dtype, block, gathered):
    if gathered:
        monkeypatch.setattr(cpu_decode, "kernel", lambda name: None)
    problem = pages([40, 3], dtype=dtype)
    problem.block_tables[0, 2] = len(problem.key_cache) if block is None else block
    with pytest.raises(IndexError):
        BACKEND(problem)
    problem.context_lens[0] = 32
    assert_right(BACKEND, problem)


def test_caches_without_a_block_hold_no_context():
    problem = pages([40, 3])
    problem.key_cache, problem.value_cache = problem.key_cache[:0], problem.value_cache[:0]
    with pytest.raises(IndexError, match="no blocks"):
        BACKEND(problem)
    with pytest.raises(IndexError, match="slot 0"):
        store_kv(*torch.ones(2, 1, 1, 16), problem.key_cache, problem.value_cache, torch.tensor([0]))


def test_after_prepare_no_call_waits_for_a_kernel():
    cpu_code.kernel_of.cache_clear()  # loaded again from where it is kept
    paged_attention.prepare(torch.float32, torch.device("cpu"), 16)
    before = cpu_code.kernel_of.cache_info().misses
    BACKEND(pages([3]))
    store_kv(*torch.ones(2, 1, 1, 16), *torch.zeros(2, 1, 8, 1, 16), torch.tensor([0]))
    assert cpu_code.kernel_of.cache_info().misses == before


@pytest.mark.parametrize("shape", [(3, 8, 2, 4), (2, 24, 3, 20)])
@pytest.mark.parametrize("dtype", cpu_decode.SERVED, ids=str)
def test_a_slot_past_the_end_is_refused_and_nothing_is_stored(dtype, shape):
    caches = torch.zeros(2, *shape, dtype=dtype)
    new = torch.ones(2, 2, *shape[2:], dtype=dtype)
    past = shape[0] * shape[1]
    with pytest.raises(IndexError, match=f"slot {past}"):
        store_kv(*new, *caches, torch.tensor([0, past]))
    assert not caches.any()
