"""What was in a block before is never read: with a pool that is full of what is no number, before the first step and
wherever nothing of anybody's is after each one, a real model says what it says with a pool of zeros."""

import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.model_runner import ModelRunner
from tests.engine.fakes import request, run

PROMPTS = {"short": 3, "long": 61, "other": 37, "again": 61}


def said(folder, poison):
    """Several at once in chunks and with preemption, some warm; a pool too small for all of them."""
    config = EngineConfig(
        model=str(folder), dtype="float32", device="cpu", block_size=8, num_kv_blocks=22, max_num_batched_tokens=16,
        swap_space=0,
    )  # fmt: skip
    runner = ModelRunner(config)
    engine = Engine(config, runner)

    def fill(blocks):
        for cache in (*runner.cache.keys, *runner.cache.values):
            cache[blocks] = poison

    fill(list(range(runner.num_blocks)))
    undisturbed = runner.run

    def disturbed(plan):
        fill(list(engine.pool.free))
        return undisturbed(plan)

    runner.run = disturbed
    runner.tokens, runner.finals = {}, {}
    for name, length in PROMPTS.items():
        engine.add(request(name, range(5, 5 + length), 6), 0.0)
    return run(engine)[0]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_it_says_the_same(tiny_model, architecture, poison):
    folder = tiny_model(architecture)
    assert said(folder, poison) == said(folder, 0.0)
