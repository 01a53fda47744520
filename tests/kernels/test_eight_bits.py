"""Keys and values in eight bits beside scales: written, and attended to as what they stand for."""

from dataclasses import replace

import numpy
import pytest
import torch

from chatpager.kernels import cpu, paged_attention, store_kv
from chatpager.kernels.arguments import EIGHT_BITS
from chatpager.kernels.cuda import served_eight_bits
from chatpager.kernels.heuristics import Splits
from tests.kernels.pages import TOLERANCE, Backend, assert_close, move, pages
from tests.kernels.test_cuda_rows import rotated

pytestmark = pytest.mark.no_cover
KINDS = list(served_eight_bits(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
BLOCKS, SIZE, HEADS, DIM = 5, 8, 2, 20


@pytest.fixture(autouse=True)
def _interpreted():
    """A head of zeros has no scale: the interpreter says that it divided by nothing before it takes the other side."""
    with numpy.errstate(divide="ignore", invalid="ignore"):
        yield


def in_eight_bits(x, kind):
    """Numbers of ``kind`` and the scale of each row."""
    largest = EIGHT_BITS[kind]
    scale = x.float().abs().amax(-1, keepdim=True) / largest
    whole = torch.where(scale > 0, x.float() / scale, 0.0)
    return (whole.round() if kind is torch.int8 else whole).to(kind), scale.squeeze(-1)


def worth(cache, scales):
    """[blocks, slots, heads, dim] in float32."""
    return cache.float() * scales.transpose(1, 2)[..., None]


def fresh(kind, device):
    caches = torch.zeros(2, BLOCKS, SIZE, HEADS, DIM).to(kind).to(device)
    return caches.unbind(), torch.zeros(2, BLOCKS, HEADS, SIZE, device=device).unbind()


def is_carried(x, kind, is_cuda):
    """Numbers that round to a power of two: the interpreter, not a GPU, makes half of it where a float is short."""
    exact, scale = in_eight_bits(x, kind)
    same = torch.frexp(exact.float()).exponent == torch.frexp(x.float() / scale[..., None]).exponent
    return ~same & (kind.is_floating_point and not is_cuda)


def assert_stored(caches, scales, wanted, slots, kind):
    """Half a step of the type off at most, and what has no slot is not there."""
    for cache, scale, new in zip(caches, scales, wanted, strict=True):
        found = worth(cache.cpu(), scale.cpu()).flatten(0, 1)
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                step = new[token].float().abs().amax(-1, keepdim=True) / (127 if kind is torch.int8 else 14)
                off = (found[slot] - new[token].float()).abs()
                assert ((off <= 0.51 * step) | is_carried(new[token], kind, cache.is_cuda)).all()
                found[slot] = 0
        assert not found.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_tokens_land_in_their_slots_with_their_scales(triton_backend, kind, dtype):
    from chatpager.kernels import cuda_store

    caches, scales = fresh(kind, triton_backend.device)
    new = torch.randn(2, 4, HEADS, DIM).to(dtype) * torch.tensor([1e-3, 1.0, 7.0, 300.0])[:, None, None].to(dtype)
    new[0, 1, 0] = 0
    slots = torch.tensor([39, -1, 0, 17])
    cuda_store.store_kv(*move(new, triton_backend.device), *caches, move(slots, triton_backend.device), scales)
    assert_stored(caches, scales, new, slots, kind)
    _, scale = in_eight_bits(new[:, 0], kind)
    torch.testing.assert_close(torch.stack(scales).cpu()[:, 4, :, 7], scale)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rotated_keys_are_stored_in_eight_bits_too(triton_backend, kind):
    from chatpager.kernels import cuda_rows

    device, heads = triton_backend.device, (4, HEADS)
    x = torch.randn(4, (4 + 2 * HEADS) * DIM)
    half = 9 * torch.randn(4, DIM // 2)
    angles = tuple(torch.cat([part, part], -1) for part in (half.cos(), half.sin()))
    query, *wanted = rotated(x.clone(), heads, DIM, angles, None)
    caches, scales = fresh(kind, device)
    slots = torch.tensor([3, 12, -1, 30])
    x = x.to(device)
    turned = tuple(angle.to(device) for angle in angles)
    cuda_rows.rotate_store(x, heads, turned, None, 0.0, caches, slots.to(device), scales)
    torch.testing.assert_close(x[:, : 4 * DIM].cpu().unflatten(1, (-1, DIM)), query)
    assert_stored(caches, scales, wanted, slots, kind)


def quantised(problem, kind):
    """The problem over caches in eight bits, and the one over what these are worth."""
    kept, scales = zip(*(in_eight_bits(c, kind) for c in (problem.key_cache, problem.value_cache)), strict=True)
    scales = [scale.transpose(1, 2).contiguous() for scale in scales]
    key, value = (worth(*pair).to(problem.query.dtype) for pair in zip(kept, scales, strict=True))
    exact = replace(problem, key_cache=key, value_cache=value)
    options = {**problem.options, "key_scales": scales[0], "value_scales": scales[1]}
    return replace(problem, key_cache=kept[0], value_cache=kept[1], options=options), exact


ROWS = {"decode": ([0, 1, 70, 200], None), "extend": ([40, 9], [12, 9])}


@pytest.mark.parametrize("block_size", [8, 64])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_attention_is_that_of_what_they_stand_for(triton_backend, kind, rows, block_size):
    problem, exact = quantised(
        pages(*ROWS[rows], heads=4, kv_heads=2, block_size=block_size, sliding_window=50, sinks=torch.randn(4)), kind
    )
    wanted = exact.expected()
    for splits in (None, Splits(64, 4)):
        for got, right in zip(triton_backend(problem, splits), wanted, strict=True):
            assert_close(got, right, 4 * TOLERANCE[torch.float32])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_in_half_precision(triton_backend, kind):
    problem, exact = quantised(pages([1, 150], dtype=torch.float16, head_dim=64), kind)
    out, _ = triton_backend(problem)
    assert_close(out, exact.expected()[0], 2e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", EIGHT_BITS, ids=str)
def test_on_a_cpu_they_are_widened(kind, rows, dtype, monkeypatch):
    monkeypatch.setattr(cpu, "PIECE_BYTES", 1 << 12)  # contexts in several pieces
    for options in ({}, {"sliding_window": 50, "sinks": torch.randn(4)}, {"softcap": 4.0}):
        problem, exact = quantised(pages(*ROWS[rows], heads=4, kv_heads=2, dtype=dtype, **options), kind)
        for got, right in zip(Backend("cpu")(problem), exact.expected(), strict=True):
            assert_close(got, right, max(TOLERANCE[dtype], 4 * TOLERANCE[torch.float32]))


@pytest.mark.parametrize("kind", EIGHT_BITS, ids=str)
def test_on_a_cpu_tokens_land_in_their_slots_too(kind):
    caches, scales = fresh(kind, "cpu")
    new, slots = torch.randn(2, 3, HEADS, DIM), torch.tensor([39, -1, 17])
    new[0, 2, 1] = 0
    store_kv(*new, *caches, slots, scales)
    assert_stored(caches, scales, new, slots, kind)
    with pytest.raises(IndexError):
        store_kv(*new, *caches, torch.tensor([0, 1, 40]), scales)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"key_scales": None}, TypeError),
        ({"value_scales": torch.zeros(BLOCKS, HEADS, SIZE, dtype=torch.float16)}, TypeError),
        ({"key_scales": torch.zeros(BLOCKS, SIZE, HEADS)}, ValueError),
        ({"value_scales": torch.zeros(BLOCKS, SIZE, HEADS).transpose(1, 2)}, ValueError),
        ({"key_scales": torch.zeros(BLOCKS, HEADS, SIZE, device="meta")}, ValueError),
        ({"value_cache": torch.zeros(BLOCKS, SIZE, HEADS, DIM).to(torch.float8_e4m3fn)}, TypeError),
        ({"key_cache": torch.zeros(BLOCKS, SIZE, HEADS, DIM)}, TypeError),
    ],
)
def test_scales_that_do_not_fit_are_refused(wrong, error):
    caches, scales = fresh(torch.int8, "cpu")
    good = dict(zip(("key_cache", "value_cache", "key_scales", "value_scales"), (*caches, *scales), strict=True))
    given = {**good, **wrong}
    tables, lengths = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    query = torch.zeros(1, 4, DIM)
    with pytest.raises(error, match="|".join(wrong)):
        paged_attention.forward(
            query, block_tables=tables, context_lens=lengths, block_size=SIZE, max_context_len=8, **given
        )
    new, kept = torch.zeros(1, HEADS, DIM), (given["key_scales"], given["value_scales"])
    with pytest.raises(error, match="|".join(wrong)):
        store_kv(new, new, given["key_cache"], given["value_cache"], torch.tensor([0]), kept)
