"""The training forward pass is transformers' own function."""

from random import Random

import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from chatpager.demo.batches import collate
from chatpager.demo.forward import Forward
from chatpager.demo.recipe import Recipe
from chatpager.demo.tokenizer import END_ID, START_ID

TINY = Recipe(vocab_size=64, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, feed_forward=48, window=64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(TINY.llama())


@pytest.fixture
def batch():
    rng = Random(0)
    ids = [[START_ID, *(rng.randrange(4, 64) for _ in range(n)), END_ID] for n in (9, 14, 22)]
    rows = [(row, [False] * 4 + [True] * (len(row) - 4)) for row in ids]
    return collate(rows, rng, 64)


def reference(model, batch):
    """Row by row, without padding, through transformers' forward pass."""
    total = torch.zeros(())
    length = batch.input_ids.shape[1]
    for row in range(len(batch.input_ids)):
        mine = batch.predict // length == row
        at, end = batch.predict[mine] % length, int(batch.predict[mine].max() % length) + 2
        ids, places = batch.input_ids[row : row + 1, :end], batch.position_ids[row : row + 1, :end]
        logits = model(input_ids=ids, position_ids=places, use_cache=False).logits[0, at]
        total = total + functional.cross_entropy(logits.float(), batch.targets[mine], reduction="sum")
    return total


@pytest.mark.parametrize("cells", [16, 96, 128])
def test_loss_and_gradients_equal_those_of_transformers(model, batch, cells):
    expected = reference(model, batch)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = Forward(model, cells, compiled=False, dtype=torch.float32).loss(batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-4)


def test_bf16_stays_close(model, batch):
    loss = Forward(model, 96, compiled=False).loss(batch)
    torch.testing.assert_close(loss, reference(model, batch), rtol=2e-2, atol=0.0)
