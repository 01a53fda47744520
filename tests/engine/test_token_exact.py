"""Greedy answers equal transformers' own, token for token, whatever the schedule (so also cached or not: row 37).

A schedule is drawn from a seed: block size, step size, pool, cache on or off, arrivals, other requests that are
cancelled half-way, forks. ``CHATPAGER_SCHEDULES`` sets how many are drawn in all (2,000 for a release).
"""

import os
import random

import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest, PublishPrefix
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Limits
from chatpager.engine.sequence import SamplingParams
from tests.engine.models import VOCAB, configs

ARCHITECTURES = sorted(configs())
pytestmark = pytest.mark.no_cover  # other tests cover the same, and a step takes twice as long under the tracer
SCHEDULES = int(os.environ.get("CHATPAGER_SCHEDULES", "204"))


@pytest.fixture(scope="module")
def sessions(reference):
    made = {}

    def get(architecture):
        if architecture not in made:
            made[architecture] = reference(architecture).sessions(seed=7, count=4, turns=3)
        return made[architecture]

    return get


class Schedule:
    """One random run of every session through one engine."""

    def __init__(self, folder, sessions, seed):
        self.rng = rng = random.Random(seed)
        self.sessions = sessions
        block_size = rng.choice([8, 8, 16, 32])
        longest = max(len(case.prompt) + len(case.answer) for session in sessions for case in session)
        one = -(-longest // block_size)
        working_set = sum(-(-(len(s[-1].prompt) + len(s[-1].answer)) // block_size) for s in sessions)
        self.tight = rng.random() < 0.6
        blocks = max(one + 2, int(0.6 * working_set)) if self.tight else 4 * working_set
        step = rng.choice([1, 3, 8, 17, 64, 512])
        config = EngineConfig(
            model=str(folder),
            dtype="float32",
            device="cpu",
            block_size=block_size,
            max_model_len=longest,
            num_kv_blocks=blocks + 1,
            max_num_batched_tokens=step,
            max_num_seqs=min(step, rng.choice([2, 4, 16])),
            enable_prefix_caching=rng.random() < 0.8,
        )
        limits = Limits(
            config.max_num_batched_tokens, config.max_num_seqs, long_prefill_threshold=rng.choice([20, 4096])
        )
        self.engine = Engine(config, ModelRunner(config), limits=limits)
        self.answers = {}
        self.expected = {}

    def run(self):
        waiting = [list(enumerate(session)) for session in self.sessions]
        live = {}
        for tick in range(5000):
            for s, turns in enumerate(waiting):
                if turns and s not in live and self.rng.random() < 0.3:
                    turn, case = turns.pop(0)
                    live[s] = self.add(f"s{s}t{turn}", case)
            if self.rng.random() < 0.1:
                self.add_and_cancel(f"junk{tick}")
            if self.rng.random() < 0.1:
                self.publish_or_withdraw(f"label{self.rng.randrange(3)}")
            self.step()
            live = {s: name for s, name in live.items() if len(self.answers[name]) < len(self.expected[name])}
            if not live and not any(waiting) and not self.engine.has_work:
                break
        assert self.answers == self.expected
        self.engine.audit()
        assert self.engine.pool.counts()["active"] == 0

    def add(self, name, case):
        n = 2 if self.rng.random() < 0.15 and self.engine.config.max_num_seqs > 1 else 1
        params = SamplingParams(temperature=0.0, max_tokens=len(case.answer), n=n, ignore_eos=True)
        salt = self.rng.choice([b"ann", b"bob"])
        self.engine.add(AddRequest(request_id=name, prompt_token_ids=list(case.prompt), params=params, salt=salt), 0.0)
        for i in range(n):
            self.expected[f"{name}/{i}"], self.answers[f"{name}/{i}"] = list(case.answer), []
        return f"{name}/{n - 1}"

    def add_and_cancel(self, name):
        """Somebody else's request, half the time with a prefix of ours, given up after a few steps."""
        own = self.rng.choice(self.rng.choice(self.sessions)).prompt
        prompt = [*own[: self.rng.randrange(len(own))], *(self.rng.randrange(2, VOCAB) for _ in range(3))]
        self.engine.add(
            AddRequest(request_id=name, prompt_token_ids=prompt, params=SamplingParams(max_tokens=5, seed=1)), 0.0
        )
        for _ in range(self.rng.randrange(4)):
            self.step()
        self.engine.cancel(name)

    def publish_or_withdraw(self, label):
        """The beginning of a session is everybody's, or is no more."""
        prompt, size = self.rng.choice(self.sessions)[0].prompt, self.engine.config.block_size
        if not self.engine.withdraw(label) and len(prompt) >= size:
            tokens = prompt[: self.rng.randrange(1, len(prompt) // size + 1) * size]
            self.engine.publish(PublishPrefix(label=label, token_ids=list(tokens)))

    def step(self):
        for output in self.engine.step(float):
            assert output.error_code is None, output.error_message
            if not output.request_id.startswith("junk"):
                self.answers[f"{output.request_id}/{output.index}"] += output.token_ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_answers_equal_transformers_under_any_schedule(architecture, tiny_model, sessions):
    each = -(-SCHEDULES // len(ARCHITECTURES))
    for seed in range(each):
        Schedule(
            tiny_model(architecture), sessions(architecture), seed=1000 * ARCHITECTURES.index(architecture) + seed
        ).run()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_logit_is_close_to_transformers(architecture, tiny_model, reference):
    """Greedy tokens could hide a small error; the logits of a whole prompt in chunks do not."""
    config = EngineConfig(
        model=str(tiny_model(architecture)),
        dtype="float32",
        device="cpu",
        block_size=8,
        num_kv_blocks=40,
        max_model_len=200,
    )
    runner = ModelRunner(config)
    engine = Engine(config, runner, limits=Limits(max_num_batched_tokens=7))
    prompt = torch.randint(2, VOCAB, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = reference(architecture).model(torch.tensor([prompt])).logits[0, -1]
    seen = []
    forward = runner.forward
    runner.forward = lambda batch: seen.append(forward(batch)) or seen[-1]
    engine.add(AddRequest(request_id="a", prompt_token_ids=prompt, params=SamplingParams(max_tokens=1)), 0.0)
    while engine.has_work:
        engine.step(float)
    torch.testing.assert_close(seen[-1][0], expected, rtol=1e-4, atol=1e-4)
