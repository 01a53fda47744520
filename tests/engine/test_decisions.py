"""What the engine decides depends on what it is asked and when, and on nothing else (I16)."""

import random

import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from tests.engine.fakes import make_engine, request, step


def decisions(seed):
    """Of a random trace: who computed how much in each step, what came into the cache and left it, what became of
    leases."""
    rng = random.Random(seed)
    engine = make_engine(num_blocks=20, max_model_len=60, max_tokens=12, max_seqs=4, host_blocks=6)
    told = []
    for i in range(120):
        owner = rng.choice("stuv")
        prompt = [*[ord(owner)] * rng.randint(1, 20), *(rng.randrange(3) for _ in range(rng.randint(1, 20)))]
        if rng.random() < 0.4:
            engine.add(request(f"r{i}", prompt, rng.randint(1, 12), owner=owner), float(i))
        if rng.random() < 0.3:
            strength = rng.choice(list(Strength))
            engine.lease(LeaseRequest(owner=owner, strength=strength, ttl=rng.uniform(1, 40)), float(i))
        step(engine, now=float(i))
        told += engine.leases.take_events()
    return engine.runner.steps, engine.cache_events(0, 1 << 20), told, engine.stats()


@pytest.mark.parametrize("seed", range(4))
def test_the_same_trace_leads_to_the_same_decisions(seed):
    first = decisions(seed)
    assert first == decisions(seed)
    assert first[3].preemptions and first[3].host_hit_tokens and first[2]
