"""The definition itself: against dense attention with an explicit mask, and against transformers' conventions."""

import pytest
import torch

from chatpager.kernels import reference
from tests.kernels.pages import pages


def dense(problem, row):
    """Keys and values of a row [kv_heads, context, head_dim], float64, gathered with one index."""
    context = int(problem.context_lens[row])
    position = torch.arange(context)
    page = problem.block_tables[row].long()[position // problem.key_cache.shape[1]]
    at = page, position % problem.key_cache.shape[1]
    return problem.key_cache[at].double().transpose(0, 1), problem.value_cache[at].double().transpose(0, 1)


@pytest.mark.parametrize("window", [None, 1, 7, 100])
@pytest.mark.parametrize("query_lens", [[12], [5], [1]])
def test_it_equals_dense_attention_under_an_explicit_mask(window, query_lens):
    problem = pages([12], query_lens, heads=6, kv_heads=2, sliding_window=window, scale=0.3)
    out, lse = problem.expected()
    key, value = dense(problem, 0)
    key, value = key.repeat_interleave(3, 0), value.repeat_interleave(3, 0)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    if window:
        mask &= torch.ones(12, 12, dtype=torch.bool).triu(1 - window)
    mask = mask[-query_lens[0] :]
    query = problem.query.double().transpose(0, 1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(out, expected.transpose(0, 1), rtol=1e-12, atol=1e-12)
    scores = (query @ key.transpose(1, 2) * 0.3).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1).T, rtol=1e-12, atol=1e-12)


def test_decode_is_extend_with_one_token_a_row():
    decode, extend = pages([5, 20]), pages([5, 20], [1, 1])
    for a, b in zip(decode.expected(), extend.expected(), strict=True):
        assert torch.equal(a, b)


def test_a_sink_is_a_key_with_that_logit_and_a_value_of_zero():
    problem = pages([6], heads=1)
    key, value = dense(problem, 0)
    query = problem.query[0].double()
    logits = torch.cat([(query @ key[0].T)[0] / 4, torch.tensor([1.5], dtype=torch.float64)])
    expected = logits.softmax(0) @ torch.cat([value[0], torch.zeros(1, 16)])
    out, lse = problem.with_options(sinks=torch.tensor([1.5])).expected()
    torch.testing.assert_close(out[0, 0], expected)
    torch.testing.assert_close(lse[0, 0], logits.logsumexp(0))


def test_rows_without_context_give_zeros():
    out, lse = pages([0]).expected()
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    out, lse = pages([0], sinks=torch.tensor([2.0, -1.0])).expected()
    assert (out == 0).all()
    assert lse.tolist() == [[2.0, -1.0]]


def as_transformers(problem):
    """query [1, heads, tokens, head_dim], key and value [1, kv_heads, context, head_dim] in float64."""
    key, value = dense(problem, 0)
    return problem.query.double().transpose(0, 1)[None], key[None], value[None]


def module(kv_heads, heads, **attributes):
    found = torch.nn.Module()
    found.num_key_value_groups = heads // kv_heads
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


def mask_of_transformers(tokens, window):
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    seen = sliding_window_causal_mask_function(window) if window else causal_mask_function
    position = torch.arange(tokens)
    visible = torch.stack([torch.stack([seen(0, 0, q, k) for k in position]) for q in position])
    return torch.zeros(tokens, tokens, dtype=torch.float64).masked_fill_(~visible, -torch.inf)[None, None]


@pytest.mark.parametrize("window", [None, 1, 4])
def test_the_window_and_the_sinks_are_those_of_gpt_oss(window):
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    sinks = torch.tensor([0.5, -2.0, 3.0, 0.0])
    problem = pages([11], [11], heads=4, kv_heads=2, sliding_window=window, sinks=sinks)
    mask = mask_of_transformers(11, window)
    theirs, _ = eager_attention_forward(
        module(2, 4, sinks=sinks.double(), training=False), *as_transformers(problem), mask, scaling=0.25
    )
    torch.testing.assert_close(problem.expected()[0], theirs[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [None, 4])
def test_the_window_and_the_softcap_are_those_of_gemma_2(window):
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    problem = pages([11], [11], heads=4, kv_heads=2, sliding_window=window, softcap=1.5)
    mask = mask_of_transformers(11, window)
    theirs, _ = eager_attention_forward(
        module(2, 4, head_dim=16, training=False), *as_transformers(problem), mask, softcap=1.5
    )
    torch.testing.assert_close(problem.expected()[0], theirs[0], rtol=1e-6, atol=1e-6)


def test_the_window_is_that_of_mistral():
    from transformers.models.mistral.modeling_mistral import eager_attention_forward

    problem = pages([11], [11], heads=4, kv_heads=2, sliding_window=5)
    theirs, _ = eager_attention_forward(
        module(2, 4, training=False), *as_transformers(problem), mask_of_transformers(11, 5), scaling=0.25
    )
    torch.testing.assert_close(problem.expected()[0], theirs[0], rtol=1e-6, atol=1e-6)


def test_the_output_is_double_precision_whatever_came_in():
    problem = pages([3], dtype=torch.float16)
    tensors = problem.query, problem.key_cache, problem.value_cache, problem.block_tables, problem.context_lens
    assert {t.dtype for t in reference.forward(*tensors)} == {torch.float64}
