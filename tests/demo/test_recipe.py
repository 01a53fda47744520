"""The recipe: a legal Llama, and a learning rate that rises, stays and falls."""

import pytest
from transformers import LlamaForCausalLM

from chatpager.demo.recipe import Recipe


def test_the_model_has_three_to_seven_million_parameters():
    parameters = sum(p.numel() for p in LlamaForCausalLM(Recipe().llama()).parameters())
    assert 3e6 <= parameters <= 7e6


def test_the_window_is_at_least_2048_tokens():
    assert Recipe().llama().max_position_embeddings >= 2048


def test_the_rate_rises_stays_and_falls():
    recipe = Recipe(warmup=10, decay=0.25)
    assert recipe.rate(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate(9, 0.0) == 1.0
    assert recipe.rate(500, 0.75) == 1.0
    assert recipe.rate(500, 0.875) == pytest.approx(0.5)
    assert recipe.rate(500, 1.0) == 0.0
