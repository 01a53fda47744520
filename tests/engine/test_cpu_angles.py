"""Angles that are kept are those of the model's own embedding, and what hangs on the row's length is not kept."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from chatpager.engine.cpu_angles import STEP, Angles

LIKE = torch.zeros(1, dtype=torch.bfloat16)
FAR = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def rotary(kind, **more):
    parameters = {"rope_type": kind, "rope_theta": 10_000.0, **more}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, max_position_embeddings=8192, rope_parameters=parameters
    )
    return LlamaRotaryEmbedding(config)


def counted(monkeypatch, embedding):
    calls, forward = [], embedding.forward
    monkeypatch.setattr(
        embedding, "forward", lambda x, position_ids: calls.append(position_ids.shape) or forward(x, position_ids)
    )
    return calls


@pytest.mark.parametrize("embedding", [rotary("default"), rotary("linear", factor=2.0), rotary("llama3", **FAR)])
def test_they_are_the_embedding_s_own_and_asked_for_once(embedding, monkeypatch):
    wanted = [torch.tensor([[0, 7, 7, 300]]), torch.tensor([[STEP - 1]]), torch.tensor([[STEP, 3]])]
    exact = [embedding(LIKE, position_ids=positions) for positions in wanted]
    calls, angles = counted(monkeypatch, embedding), Angles(embedding)
    for positions, pair in zip(wanted, exact, strict=True):
        for got, own in zip(angles.at(positions, LIKE), pair, strict=True):
            assert got.shape == own.shape and got.dtype is torch.bfloat16
            torch.testing.assert_close(got, own, rtol=2**-8, atol=1e-6)
    assert calls == [(1, STEP), (1, STEP)]


def test_what_looks_at_the_row_is_asked_each_time(monkeypatch):
    embedding = rotary("dynamic", factor=2.0)
    calls, angles = counted(monkeypatch, embedding), Angles(embedding)
    for _ in range(2):
        assert angles.at(torch.tensor([[5, 6]]), LIKE)[0].shape == (1, 2, 32)
    assert calls == [(1, 2), (1, 2)]
