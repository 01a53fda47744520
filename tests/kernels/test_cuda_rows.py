"""The fused passes between two products compute what transformers' modules do."""

import numpy
import pytest
import torch
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

pytestmark = pytest.mark.no_cover
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
EPS = 1e-5


@pytest.fixture
def rows(triton_backend):
    """Random numbers where the kernels run."""

    def made(*shape, dtype):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(triton_backend.device, dtype)

    with numpy.errstate(over="ignore"):  # of the interpreter: an exponential may well be infinite
        yield made


def plain_norm(weight):
    norm = Qwen3RMSNorm(len(weight), eps=EPS).to(weight.device, weight.dtype).requires_grad_(False)
    norm.weight.copy_(weight)
    return norm


def close(got, wanted):
    """A last bit of the scale may tip a rounding, and the product with the weight is rounded again."""
    assert got.dtype is wanted.dtype and got.shape == wanted.shape
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got, wanted, rtol=2 * tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [1, 50, 768])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm(rows, dtype, dim):
    from chatpager.kernels import cuda_rows

    x, weight = rows(3, dim + 7, dtype=dtype)[:, :dim], rows(dim, dtype=dtype)
    before = x.clone()
    close(cuda_rows.norm(x, weight, EPS), plain_norm(weight)(x))
    assert torch.equal(x, before)
    assert cuda_rows.norm(x[:0], weight, EPS).shape == (0, dim)


def assert_sum(got, wanted):
    """To the bit, but that the interpreter cuts off what a GPU rounds to bfloat16."""
    if got.is_cuda or got.dtype is not torch.bfloat16:
        assert torch.equal(got, wanted)
    else:
        torch.testing.assert_close(got, wanted, rtol=2**-7, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_and_its_norm(rows, dtype):
    from chatpager.kernels import cuda_rows

    x, y, weight = rows(5, 80, dtype=dtype), rows(5, 160, dtype=dtype)[:, 80:], rows(80, dtype=dtype)
    total = x + y
    got = cuda_rows.add_norm(x, y, weight, EPS)
    assert_sum(x, total)
    close(got, plain_norm(weight)(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gate(rows, dtype):
    from chatpager.kernels import cuda_rows

    x = 30 * rows(3, 2 * 1100, dtype=dtype)
    x[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -0.0])
    left, right = x.chunk(2, -1)
    close(cuda_rows.gate(x), nn.functional.silu(left) * right)
    assert cuda_rows.gate(x[:0]).shape == (0, 1100)


def test_what_is_no_number_is_none_afterwards(rows):
    from chatpager.kernels import cuda_rows

    x, weight = rows(3, 32, dtype=torch.float32), rows(32, dtype=torch.float32)
    x[1, 5] = torch.nan
    assert cuda_rows.norm(x, weight, EPS).isnan().any(-1).tolist() == [False, True, False]
    assert cuda_rows.gate(x).isnan().any(-1).tolist() == [False, True, False]


def rotated(x, heads, dim, angles, weights):
    """Queries, keys and values [tokens, heads, dim] as transformers' attention makes them."""
    query, key, value = (
        part.unflatten(1, (-1, dim)) for part in x.split([heads[0] * dim, heads[1] * dim, heads[1] * dim], 1)
    )
    if weights:
        query, key = plain_norm(weights[0])(query), plain_norm(weights[1])(key)
    cos, sin = (angle[None] for angle in angles)
    turned = apply_rotary_pos_emb(query[None].transpose(1, 2), key[None].transpose(1, 2), cos, sin)
    return (*(part[0].transpose(0, 1) for part in turned), value)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "dim"), [((4, 2), 16), ((3, 1), 20), ((32, 8), 64), ((1, 1), 2)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_queries_are_rotated_and_keys_and_values_land_in_their_slots(rows, dtype, heads, dim, normed):
    from chatpager.kernels import cuda_rows

    tokens, width = 4, (heads[0] + 2 * heads[1]) * dim
    x = rows(tokens, width + 16, dtype=dtype)[:, :width]
    before, half = x.clone(), 9 * rows(tokens, dim // 2, dtype=torch.float32)
    angles = tuple(torch.cat([part, part], -1).to(dtype) for part in (half.cos(), half.sin()))
    weights = (rows(dim, dtype=dtype), 1.5 * rows(dim, dtype=dtype)) if normed else None
    query, key, value = rotated(before, heads, dim, angles, weights)
    caches = rows(2, 5, 8, heads[1], dim, dtype=dtype)
    wanted = caches.clone()
    slots = torch.tensor([39, -1, 0, 17], device=x.device)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            wanted[0, slot // 8, slot % 8], wanted[1, slot // 8, slot % 8] = key[token], value[token]
    cuda_rows.rotate_store(x, heads, angles, weights, EPS, (caches[0], caches[1]), slots)
    # What a rotation cancels out keeps the error of what it was made of.
    atol = 32 * TOLERANCE[dtype] if normed else 1e-6 if dtype is torch.float32 else 0.0
    if dtype is torch.bfloat16 and not x.is_cuda:
        atol = max(atol, 0.05)  # the interpreter cuts off what a GPU rounds
    torch.testing.assert_close(x[:, : heads[0] * dim].unflatten(1, (-1, dim)), query, rtol=0.0, atol=atol)
    torch.testing.assert_close(caches[0], wanted[0], rtol=0.0, atol=atol)
    assert torch.equal(caches[1], wanted[1])
    assert torch.equal(x[:, heads[0] * dim :], before[:, heads[0] * dim :])
    cuda_rows.rotate_store(x[:0], heads, angles, weights, EPS, (caches[0], caches[1]), slots[:0])
