"""The linear of few rows gives the product, and the same bits whatever the threads and the other rows are."""

import logging
import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear as plain

from chatpager.kernels import cpu_code, cpu_linear
from chatpager.kernels.cpu_linear import Weights

KINDS = sorted(cpu_linear.SERVED, key=str)
DOTS = sorted({False, cpu_linear.has_dots()})
"""Whether bfloat16 is multiplied by the processor's own instruction: as this one can."""


def product(x, weight, bias=None, scale=None):
    """Into a part of a larger output, whose rest must stay."""
    whole = torch.full((len(x), len(weight) + 3), 7.0, dtype=x.dtype)
    assert cpu_linear.linear(x, Weights(weight, scale, bias), whole[:, 1:-2])
    assert (whole[:, 0] == 7).all() and (whole[:, -2:] == 7).all()
    return whole[:, 1:-2]


def exact(x, weight, bias=None, scale=None):
    wide = weight.double() if scale is None else weight.double() * scale.double()[:, None]
    return plain(x.double(), wide, None if bias is None else bias.double())


def random_weight(out, into, dtype):
    if dtype is torch.int8:
        return torch.randint(-127, 128, (out, into), dtype=torch.int8)
    return torch.randn(out, into).to(dtype)


@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 40) | st.sampled_from([63, 64, 65]),
    into=st.integers(1, 70) | st.integers(500, 530),
    out=st.integers(1, 60),
    bias=st.booleans(),
    layout=st.sampled_from(["contiguous", "columns of more", "transposed"]),
    count=st.integers(1, 5),
    seed=st.integers(0, 9),
    dots=st.sampled_from(DOTS),
)
def test_any_shape(kind, rows, into, out, bias, layout, count, seed, dots):
    dtype, stored = kind
    torch.manual_seed(seed)
    wide = torch.randn(rows, into + 5).to(dtype)
    x = {
        "contiguous": wide[:, :into].contiguous(),
        "columns of more": wide[:, 3 : into + 3],
        "transposed": torch.randn(into, rows).to(dtype).t(),
    }[layout]
    weight = random_weight(out, into + 2, stored)[:, 1:-1]
    scale = torch.rand(out) / 60 if stored is torch.int8 else None
    added = torch.randn(out) if bias else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_code, "SHARED_BYTES", 0)
        patch.setattr(torch, "get_num_threads", lambda: count)
        patch.setattr(cpu_linear, "has_dots", lambda: dots)
        got = product(x, weight, added, scale)
    # half a step of bfloat16, and what float32 loses in sums of numbers around 1
    rtol = 2**-8 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.double(), exact(x, weight, added, scale), rtol=rtol, atol=1e-5 * into**0.5)


@pytest.mark.parametrize("dots", DOTS)
def test_the_exact_sum_is_rounded_to_the_nearest_and_a_tie_to_even(dots, monkeypatch):
    """Sums that float32 holds exactly, so that rounding alone decides."""
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: dots)
    small = torch.tensor([2.0**-9, 2.0**-8, 3 * 2.0**-9, 3 * 2.0**-8, 2.0**-7])
    for dim in (2, 34):  # past whole vectors, and in one
        x, weight = torch.zeros(1, dim, dtype=torch.bfloat16), torch.zeros(5, dim, dtype=torch.bfloat16)
        x[0, :2], weight[:, 0], weight[:, 1] = 1, 1, small
        assert torch.equal(product(x, weight)[0], (1 + small).bfloat16())


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_has_the_same_bits_alone_and_among_others_and_in_any_cut(kind, dots, monkeypatch):
    monkeypatch.setattr(cpu_code, "SHARED_BYTES", 0)
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: dots)
    x, weight = torch.randn(13, 83).to(kind[0]), random_weight(101, 83, kind[1])
    whole = product(x, weight)
    for rows in range(1, 13):
        assert torch.equal(product(x[:rows], weight), whole[:rows])
    for threads in (2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        for rows in (1, 2, 13):
            assert torch.equal(product(x[:rows], weight), whole[:rows])


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 17, 35])
def test_what_is_not_finite_shows_where_it_belongs(bad, place, dots, monkeypatch):
    """In whole vectors and past them, in the input and in the weight; the neighbours of the weight's row stay."""
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: dots)
    x, weight = torch.randn(5, 36).bfloat16(), torch.randn(11, 36).bfloat16()
    for other in (x, weight):
        kept = other[3, place].item()
        other[3, place] = bad
        torch.testing.assert_close(product(x, weight).float(), exact(x, weight).float(), rtol=2**-8, atol=1e-4,
                                   equal_nan=True)  # fmt: skip
        other[3, place] = kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # beside weights of bfloat16
def test_rows_of_another_dtype_are_left_to_others(dtype):
    """Read as bfloat16 they would give numbers, and wrong ones."""
    out = torch.full((1, 3), 7.0, dtype=dtype)
    assert not cpu_linear.linear(torch.ones(1, 2, dtype=dtype), Weights(torch.ones(3, 2).bfloat16()), out)
    assert (out == 7).all()


def test_numba_that_compiles_for_another_processor_is_done_without():
    """LLVM ends the process where the instruction is not in what it is to compile for."""
    code = (
        "import torch; from chatpager.engine.cpu_linears import Maker; "
        "from chatpager.kernels import cpu_linear; cpu_linear.has_dots = lambda: True; "
        "made = Maker().make([torch.nn.Linear(48, 37, dtype=torch.bfloat16)]); "
        "assert made(torch.ones(2, 48).bfloat16()).shape == (2, 37)"
    )
    for name, value in (("NUMBA_CPU_NAME", "generic"), ("NUMBA_ENABLE_AVX", "0")):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, name: value}, text=True,
                              capture_output=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "leave out AVX-512 BF16" in done.stderr


def test_without_numba_nothing_is_written_and_one_warning_told(monkeypatch, caplog, tmp_path):
    def fails(name):
        raise RuntimeError("LLVM is unwell")

    from chatpager.kernels import cpu_linear_jit

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpu_linear_jit, "compiled", fails)
    monkeypatch.setattr(cpu_linear, "kernel_of", cache(cpu_code.kernel_of.__wrapped__))
    out = torch.full((1, 3), 7.0).bfloat16()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not cpu_linear.linear(torch.ones(1, 2).bfloat16(), Weights(torch.ones(3, 2).bfloat16()), out)
    assert (out == 7).all()
    assert caplog.text.count("LLVM is unwell") == 1
