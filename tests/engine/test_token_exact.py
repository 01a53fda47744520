"""Greedy answers equal transformers' own, token for token, whatever the schedule (so also cached or not: row 37).

``schedules`` says what is drawn. ``CHATPAGER_SCHEDULES`` sets how many are drawn in all (2,004 for a release).
"""

import os
from collections import Counter

import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Limits
from chatpager.engine.sequence import SamplingParams
from tests.engine.models import VOCAB, configs
from tests.engine.schedules import Schedule

ARCHITECTURES = sorted(configs())
pytestmark = pytest.mark.no_cover  # other tests cover the same, and a step takes twice as long under the tracer
SCHEDULES = int(os.environ.get("CHATPAGER_SCHEDULES", "48"))
ENOUGH = 204
"""Schedules in which all of this happens:"""
EVENTS = {
    "preempted", "from the device", "from host memory", "from disk", "forked", "rewound", "published",
    "samples", "crashed", "soft granted", "soft expired", "soft released", "soft revoked", "hard granted",
    "hard clipped", "hard expired", "hard released", "hard revoked",
}  # fmt: skip


@pytest.fixture(scope="module")
def sessions(reference):
    made = {}

    def get(architecture):
        if architecture not in made:
            turns = reference(architecture).sessions(seed=7, count=3, turns=3)
            made[architecture] = turns, reference(architecture).otherwise(seed=8, sessions=turns)
        return made[architecture]

    return get


@pytest.fixture(scope="module")
def happened():
    """How often what, in all schedules; they prove nothing of what they do not reach."""
    counted = Counter()
    yield counted
    print("\n", dict(sorted(counted.items())))
    assert counted["schedules"] < ENOUGH or not EVENTS - counted.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_answers_equal_transformers_under_any_schedule(architecture, tiny_model, sessions, tmp_path, happened):
    for i in range(-(-SCHEDULES // len(ARCHITECTURES))):
        seed = 1000 * ARCHITECTURES.index(architecture) + i
        happened += Schedule(tiny_model(architecture), *sessions(architecture), seed, tmp_path / str(i)).run()
        happened["schedules"] += 1


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
