"""Writing into slots and copying blocks, on every backend."""

import pytest
import torch

from chatpager.kernels import copy_blocks, store_kv
from tests.kernels.pages import Backend, far_apart, move


def stored(backend: Backend, key, value, key_cache, value_cache, slots):
    """The caches after a store, on the CPU."""
    tensors = [move(t, backend.device) for t in (key, value, key_cache, value_cache, slots)]
    if backend.name == "triton-interpret":
        from chatpager.kernels import cuda_store

        cuda_store.store_kv(*tensors)
    else:
        store_kv(*tensors)
    return tensors[2].cpu(), tensors[3].cpu()


def caches(dtype=torch.float32, shape=(6, 8, 2, 20)):
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["slots first", "heads first", "side by side", "one layer of several"])
def test_tokens_land_in_their_slots_and_nothing_else_changes(backend, dtype, layout):
    key_cache, value_cache = caches(dtype)
    if layout == "heads first":
        key_cache, value_cache = (c.transpose(1, 2).contiguous().transpose(1, 2) for c in (key_cache, value_cache))
    elif layout == "side by side":
        both = torch.cat([key_cache, value_cache], -1)
        key_cache, value_cache = both[..., :20], both[..., 20:]
    elif layout == "one layer of several":
        layers = torch.stack([key_cache, value_cache, key_cache], 1)
        key_cache, value_cache = layers[:, 0], layers[:, 1]
    slots = torch.tensor([47, 0, -1, 8, 9, 23, -1])
    key, value = torch.randn(7, 2, 20).to(dtype), torch.randn(7, 2, 20).to(dtype)
    expected = key_cache.clone(), value_cache.clone()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[0][slot // 8, slot % 8] = key[token]
            expected[1][slot // 8, slot % 8] = value[token]
    for actual, wanted in zip(stored(backend, key, value, key_cache, value_cache, slots), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_slices_of_a_fused_projection(backend):
    key_cache, value_cache = caches()
    fused = torch.randn(3, 8 * 20)
    key, value = fused[:, 80:120].view(3, 2, 20), fused[:, 120:].view(3, 2, 20)
    slots = torch.tensor([1, 40, 20])
    new_keys, new_values = stored(backend, key, value, key_cache, value_cache, slots)
    assert torch.equal(new_keys.flatten(0, 1)[slots], key)
    assert torch.equal(new_values.flatten(0, 1)[slots], value)


def test_a_strided_last_dimension_and_strided_slots(backend):
    key_cache, value_cache = caches()
    key, value = torch.randn(2, 3, 20, 2).transpose(2, 3)
    slots = torch.tensor([1, -5, 40, -5, 20])[::2]
    new_keys, new_values = stored(backend, key, value, key_cache, value_cache, slots)
    assert torch.equal(new_keys.flatten(0, 1)[slots], key)
    assert torch.equal(new_values.flatten(0, 1)[slots], value)


@pytest.mark.parametrize("slots", [[], [-1, -1]])
def test_nothing_to_store(backend, slots):
    before = caches()
    new = torch.randn(2, len(slots), 2, 20)
    slots = torch.tensor(slots, dtype=torch.int64)
    for actual, wanted in zip(stored(backend, *new, *before, slots), before, strict=True):
        assert torch.equal(actual, wanted)


def test_a_token_wider_than_one_program(backend):
    key_cache, value_cache = caches(shape=(2, 8, 9, 128))
    key, value = torch.randn(2, 1, 9, 128)
    new_keys, _ = stored(backend, key, value, key_cache, value_cache, torch.tensor([13]))
    assert torch.equal(new_keys[1, 5], key[0])


def test_slots_and_blocks_beyond_two_to_the_31_elements(backend, tmp_path):
    dtype = torch.bfloat16 if backend.name == "cpu" else torch.float16  # of 16 bits, and such as numba serves
    cache = far_apart(tmp_path / "cache", 16, 1, 16).view(dtype)
    for block in range(3):
        cache[block] = block
    new = torch.randn(2, 1, 16).to(dtype)
    got, _ = stored(backend, new, new, cache, cache, torch.tensor([47, 16]))
    assert torch.equal(got[2, 15], new[0])
    assert torch.equal(got[1, 0], new[1])
    assert (got[0] == 0).all()
    assert (got[2, :15] == 2).all()
    got, _ = copied(backend, [cache], [cache], torch.tensor([[1, 2]]))
    assert torch.equal(got[2], got[1])
    assert (got[0] == 0).all()


def copied(backend: Backend, key_caches, value_caches, pairs):
    key_caches, value_caches = ([move(c, backend.device) for c in each] for each in (key_caches, value_caches))
    pairs = move(pairs, backend.device)
    if backend.name == "triton-interpret":
        from chatpager.kernels import cuda_store

        cuda_store.copy_blocks(key_caches, value_caches, pairs)
    else:
        copy_blocks(key_caches, value_caches, pairs)
    return [c.cpu() for c in (*key_caches, *value_caches)]


@pytest.mark.parametrize("pairs", [[], [[0, 5]], [[0, 5], [0, 3], [2, 1]]])
@pytest.mark.parametrize("heads_first", [False, True])
def test_blocks_are_copied_in_every_layer(backend, pairs, heads_first):
    layers = [torch.randn(6, 16, 3, 40) for _ in range(4)]
    if heads_first:
        layers = [c.transpose(1, 2).contiguous().transpose(1, 2) for c in layers]
    expected = [c.clone() for c in layers]
    for cache in expected:
        for source, target in pairs:
            cache[target] = cache[source]
    actual = copied(backend, layers[:2], layers[2:], torch.tensor(pairs, dtype=torch.int64).view(-1, 2))
    for got, wanted in zip(actual, expected, strict=True):
        assert torch.equal(got, wanted)


def arguments():
    return {
        "key": torch.zeros(2, 2, 16),
        "value": torch.zeros(2, 2, 16),
        "key_cache": torch.zeros(3, 8, 2, 16),
        "value_cache": torch.zeros(3, 8, 2, 16),
        "slot_mapping": torch.tensor([0, 1]),
    }


WRONG = {
    "slot_mapping is int32": (TypeError, {"slot_mapping": torch.tensor([0, 1], dtype=torch.int32)}),
    "value has another dtype": (TypeError, {"value": torch.zeros(2, 2, 16, dtype=torch.float16)}),
    "key_cache has another dtype": (TypeError, {"key_cache": torch.zeros(3, 8, 2, 16, dtype=torch.float16)}),
    "key_cache on another device": (ValueError, {"key_cache": torch.zeros(3, 8, 2, 16, device="meta")}),
    "caches of 3 dimensions": (ValueError, {n: torch.zeros(3, 8, 32) for n in ("key_cache", "value_cache")}),
    "caches differ": (ValueError, {"value_cache": torch.zeros(4, 8, 2, 16)}),
    "strided caches": (ValueError, {n: torch.zeros(3, 8, 2, 32)[..., ::2] for n in ("key_cache", "value_cache")}),
    "slots of 2 dimensions": (ValueError, {"slot_mapping": torch.tensor([[0, 1]])}),
    "more tokens than slots": (ValueError, {"key": torch.zeros(3, 2, 16)}),
    "heads of value": (ValueError, {"value": torch.zeros(2, 1, 16)}),
}


@pytest.mark.parametrize(("error", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_store_is_refused(error, wrong):
    store_kv(**arguments())
    with pytest.raises(error, match="|".join(wrong)):
        store_kv(**{**arguments(), **wrong})


def test_a_wrong_copy_is_refused():
    cache, pairs = torch.zeros(3, 8, 2, 16), torch.tensor([[0, 1]])
    copy_blocks([cache], [cache], pairs)
    with pytest.raises(TypeError, match="pairs"):
        copy_blocks([cache], [cache], pairs.int())
    for keys, values, wrong in (
        ([cache], [cache], torch.tensor([0, 1])),
        ([cache], [cache], torch.tensor([[0, 1, 2]])),
        ([cache, cache], [cache], pairs),
        ([cache[0]], [cache], pairs),
        ([cache[..., ::2]], [cache], pairs),
        ([cache], [cache.to("meta")], pairs),
    ):
        with pytest.raises(ValueError, match="pairs"):
            copy_blocks(keys, values, wrong)
