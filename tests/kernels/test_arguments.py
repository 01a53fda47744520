"""Wrong arguments are named, with their shapes, before anything is computed or written."""

import pytest
import torch

from chatpager.kernels import paged_attention


def arguments():
    return {
        "query": torch.randn(2, 4, 16),
        "key_cache": torch.randn(5, 8, 2, 16),
        "value_cache": torch.randn(5, 8, 2, 16),
        "block_tables": torch.zeros(2, 3, dtype=torch.int32),
        "context_lens": torch.ones(2, dtype=torch.int32),
        "block_size": 8,
        "max_context_len": 24,
    }


WRONG_TYPES = {
    "query is integer": {"query": torch.zeros(2, 4, 16, dtype=torch.int32)},
    "query is a list": {"query": [1.0]},
    "key_cache has another dtype": {"key_cache": torch.zeros(5, 8, 2, 16, dtype=torch.float16)},
    "value_cache has another dtype": {"value_cache": torch.zeros(5, 8, 2, 16, dtype=torch.float16)},
    "block_tables is int64": {"block_tables": torch.zeros(2, 3, dtype=torch.int64)},
    "context_lens is int64": {"context_lens": torch.ones(2, dtype=torch.int64)},
    "context_lens is a list": {"context_lens": [1, 1]},
    "query_start is int64": {"query_start": torch.tensor([0, 1, 2])},
    "sinks is integer": {"sinks": torch.zeros(4, dtype=torch.int32)},
    "out has another dtype": {"out": torch.zeros(2, 4, 16, dtype=torch.float16)},
}

WRONG_VALUES = {
    "query has 2 dimensions": {"query": torch.zeros(2, 64)},
    "key_cache has 3 dimensions": {"key_cache": torch.zeros(5, 8, 32)},
    "block_tables has 1 dimension": {"block_tables": torch.zeros(6, dtype=torch.int32)},
    "caches differ in shape": {"value_cache": torch.randn(6, 8, 2, 16)},
    "caches differ in layout": {"value_cache": torch.randn(5, 2, 8, 16).transpose(1, 2)},
    "caches have a strided last dimension": {
        name: torch.randn(5, 8, 2, 32)[..., ::2] for name in ("key_cache", "value_cache")
    },
    "block_size is not the caches'": {"block_size": 16},
    "block_size is no multiple of 8": {"block_size": 12},
    "block_size is 0": {"block_size": 0},
    "head dimensions differ": {"query": torch.zeros(2, 4, 32)},
    "heads are no multiple": {"query": torch.zeros(2, 3, 16)},
    "no heads": {"query": torch.zeros(2, 0, 16)},
    "rows of block_tables": {"block_tables": torch.zeros(3, 3, dtype=torch.int32)},
    "rows of query": {"query": torch.zeros(3, 4, 16)},
    "length of query_start": {"query_start": torch.tensor([0, 2], dtype=torch.int32)},
    "length of sinks": {"sinks": torch.zeros(2)},
    "shape of out": {"out": torch.zeros(2, 4, 8)},
    "stride of out": {"out": torch.zeros(2, 4, 32)[..., ::2]},
    "negative max_context_len": {"max_context_len": -1},
    "negative max_query_len": {"max_query_len": -1},
    "empty window": {"sliding_window": 0},
    "softcap of 0": {"softcap": 0.0},
    "query on a device without a backend": {"query": torch.zeros(2, 4, 16, device="meta")},
    "key_cache on another device": {"key_cache": torch.zeros(5, 8, 2, 16, device="meta")},
    "sinks on another device": {"sinks": torch.zeros(4, device="meta")},
    # The CPU can look at values without waiting for a device.
    "a context beyond the table": {"context_lens": torch.tensor([1, 25], dtype=torch.int32)},
    "a negative context": {"context_lens": torch.tensor([1, -1], dtype=torch.int32)},
    "query_start does not begin at 0": {"query_start": torch.tensor([1, 1, 2], dtype=torch.int32)},
    "query_start does not end at the tokens": {"query_start": torch.tensor([0, 1, 1], dtype=torch.int32)},
    "query_start falls": {"query_start": torch.tensor([0, 3, 2], dtype=torch.int32)},
    "more queries than context": {"query_start": torch.tensor([0, 2, 2], dtype=torch.int32)},
}


def test_the_arguments_that_the_others_vary_are_right():
    assert paged_attention.forward(**arguments()).shape == (2, 4, 16)


@pytest.mark.parametrize("wrong", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_a_wrong_type_is_refused(wrong):
    refused(TypeError, wrong)


@pytest.mark.parametrize("wrong", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_refused(wrong):
    refused(ValueError, wrong)


def refused(error, wrong):
    out = torch.full((2, 4, 16), 7.0)
    with pytest.raises(error) as caught:
        paged_attention.forward(**{**arguments(), "out": out, **wrong})
    assert any(name in str(caught.value) for name in (*wrong, "caches")), "the message names the argument"
    assert (out == 7.0).all()
