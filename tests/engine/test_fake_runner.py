"""The fake of ``--engine fake`` under the real engine: what it says, how long, how fast, and what it finds out."""

import dataclasses

import pytest
from tokenizers import Tokenizer as Backend

from chatpager.config import EngineConfig
from chatpager.demo import model_path
from chatpager.engine.engine import Engine
from chatpager.engine.fake_runner import LEAST_TOKENS, MORE_TOKENS, FakeRunner
from chatpager.engine.messages import AddRequest, FinishReason
from chatpager.engine.sequence import SamplingParams
from chatpager.errors import ConfigError
from tests.engine.fakes import run

CONFIG = EngineConfig(
    model=str(model_path()), engine="fake", num_kv_blocks=64, max_model_len=256, block_size=8,
    max_num_batched_tokens=32, max_num_seqs=8, swap_space=0,
)  # fmt: skip
PROMPT = list(range(100, 140))


def engine(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    made = Engine(config, FakeRunner(config))
    made.runner.tokens, made.runner.finals = {}, {}
    return made


def ask(made, prompt=PROMPT, name="a", count=20, **params):
    params = SamplingParams(max_tokens=count, **params)
    made.add(AddRequest(request_id=name, prompt_token_ids=list(prompt), params=params), 0.0)


def answers(made):
    return {name: said[0] for name, said in run(made)[0].items()}


def test_it_says_words_that_the_prompt_and_the_seed_choose():
    said = {}
    for name, prompt, seed in (("a", PROMPT, None), ("b", PROMPT[1:], None), ("c", PROMPT, 7)):
        made = engine()
        ask(made, prompt, name, seed=seed)
        said |= answers(made)
    assert len({tuple(ids) for ids in said.values()}) == 3
    assert all(len(ids) == 20 for ids in said.values())
    text = Backend.from_file(str(model_path() / "tokenizer.json")).decode(said["a"])
    assert text.replace(" ", "").isalpha() and text.isascii()


def test_whatever_runs_beside_it_and_is_cached_or_preempted_it_says_the_same():
    alone = {}
    for i in range(12):
        made = engine()
        ask(made, PROMPT[: 20 + i], str(i), 30)
        alone |= answers(made)
    together = engine(num_kv_blocks=34)
    for again in range(2):
        for i in range(12):
            ask(together, PROMPT[: 20 + i], str(i), 30)
        assert answers(together) == alone
        together.runner.tokens.clear(), together.runner.finals.clear()
        assert bool(together.stats().hit_tokens) >= bool(again)
    assert together.stats().preemptions > 0


def test_without_a_bound_it_ends_by_itself():
    made = engine()
    ask(made, count=None)
    tokens, finals = run(made)
    assert finals["a", 0].finish_reason is FinishReason.STOP
    assert LEAST_TOKENS <= len(tokens["a"][0]) - 1 < LEAST_TOKENS + MORE_TOKENS


def test_a_request_with_rules_gets_what_the_rules_leave():
    made, plain = engine(), engine()
    ask(plain)
    word = answers(plain)["a"][0]
    ask(made, logprobs=2, repetition_penalty=1.5)
    ask(made, name="b", logit_bias={word: -100.0})
    tokens, _ = run(made)
    assert tokens["a"][0][0] == word != tokens["b"][0][0]


def test_a_block_with_other_tokens_fails_its_request_and_no_other():
    made = engine()
    ask(made)
    answers(made)
    made.runner._memory[:] = 0
    ask(made, PROMPT, "hit")
    ask(made, PROMPT[::-1], "miss")
    _, finals = run(made)
    assert finals["hit", 0].finish_reason is FinishReason.ERROR
    assert finals["miss", 0].finish_reason is FinishReason.LENGTH


class Time:
    def __init__(self):
        self.now, self.slept = 100.0, []

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds


def test_it_keeps_its_beat_and_makes_up_for_nothing():
    time = Time()
    config = dataclasses.replace(CONFIG, fake_tokens_per_second=20.0)
    made = Engine(config, FakeRunner(config, clock=lambda: time.now, sleep=time.sleep))
    ask(made, count=6)
    made.step(lambda: time.now)  # 32 of 40 prompt tokens
    for work in (0.01, 0.02, 0.2, 0.0):
        time.now += work
        made.step(lambda: time.now)
    assert time.slept == [0.04, 0.03, 0.05]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        engine(num_kv_blocks=10)
