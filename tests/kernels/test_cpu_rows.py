"""The passes between two products compute what transformers' modules do."""

import pytest
import torch
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from chatpager.kernels import cpu_rows

DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5


def rows(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def plain_norm(dim, dtype):
    norm = Qwen3RMSNorm(dim, eps=EPS).to(dtype).requires_grad_(False)
    norm.weight.copy_(rows(dim, dtype=dtype))
    return norm


def close(got, wanted, dtype):
    """A last bit of the scale may tip a rounding to bfloat16, and the product with the weight is rounded again."""
    assert got.dtype is dtype and got.shape == wanted.shape
    rtol = 2**-7 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 3, 700])
@pytest.mark.parametrize("dim", [1, 16, 50, 768])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(dtype, dim, count, threads):
    with of_threads(threads):
        x, plain = rows(count, dim, dtype=dtype), plain_norm(dim, dtype)
        close(cpu_rows.norm(cpu_rows.kernel(dtype), x, plain.weight, EPS), plain(x), dtype)


class of_threads:
    def __init__(self, threads):
        self.threads = threads

    def __enter__(self):
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def __exit__(self, *_):
        torch.set_num_threads(self.before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_and_its_norm(dtype):
    x, y, plain = rows(5, 80, dtype=dtype), rows(5, 160, dtype=dtype)[:, 80:], plain_norm(80, dtype)
    total = x + y
    got = cpu_rows.add_norm(cpu_rows.kernel(dtype), x, y, plain.weight, EPS)
    assert torch.equal(x, total)
    close(got, plain(total), dtype)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("heads", [(4, 2), (3, 1)])
@pytest.mark.parametrize("dim", [2, 16, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation(dtype, dim, heads, normed):
    query_heads, kv_heads = heads
    width = (query_heads + 2 * kv_heads) * dim
    x, angles = rows(7, width + 3, dtype=dtype)[:, :width], 9 * rows(7, dim // 2, dtype=torch.float32)
    cos, sin = (torch.cat([part, part], -1).to(dtype) for part in (angles.cos(), angles.sin()))
    norms = [plain_norm(dim, dtype) for _ in range(2)] if normed else None
    query, key, value = (
        part.unflatten(1, (-1, dim)) for part in x.clone().split([query_heads * dim, kv_heads * dim, kv_heads * dim], 1)
    )
    if norms:
        norms[1].weight.mul_(1.5)
        query, key = norms[0](query), norms[1](key)
    wanted = apply_rotary_pos_emb(query[None].transpose(1, 2), key[None].transpose(1, 2), cos[None], sin[None])
    wanted = torch.cat([*(part[0].transpose(0, 1).flatten(1) for part in wanted), value.flatten(1)], 1)
    weights = (norms[0].weight, norms[1].weight) if norms else None
    cpu_rows.rotate(cpu_rows.kernel(dtype), x, heads, (cos, sin), weights, EPS)
    # What a rotation cancels out keeps the error of what it was made of.
    atol = 1e-5 if dtype is torch.float32 else 0.05 if normed else 0.0
    torch.testing.assert_close(x, wanted, rtol=0.0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(dtype):
    x = 30 * rows(6, 2 * 75, dtype=dtype)
    x[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -0.0])
    left, right = x.chunk(2, -1)
    close(cpu_rows.gate(cpu_rows.kernel(dtype), x), nn.functional.silu(left) * right, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_none_afterwards(dtype):
    x, weight = rows(3, 32, dtype=dtype), torch.ones(32, dtype=dtype)
    x[1, 5] = torch.nan
    assert cpu_rows.norm(cpu_rows.kernel(dtype), x, weight, EPS).isnan().any(-1).tolist() == [False, True, False]
    assert cpu_rows.gate(cpu_rows.kernel(dtype), x).isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(dtype):
    x, weight = rows(600, 128, dtype=dtype), rows(128, dtype=dtype)
    found = cpu_rows.kernel(dtype)
    together = cpu_rows.norm(found, x, weight, EPS), cpu_rows.gate(found, x)
    for i in (0, 17, 599):
        alone = x[i : i + 1]
        assert torch.equal(cpu_rows.norm(found, alone, weight, EPS), together[0][i : i + 1])
        assert torch.equal(cpu_rows.gate(found, alone), together[1][i : i + 1])


def test_other_numbers_are_not_served():
    assert cpu_rows.kernel(torch.float64) is cpu_rows.kernel(torch.float16) is None
