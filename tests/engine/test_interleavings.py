"""Orders in which pinning, evicting, spilling and loading meet: three sessions, six blocks, no chance.

From each state of the engine that an order of events leads to, every event is tried; states that are equal up to the
names of blocks and moments are one. The shortest orders come first: a number of states is every order up to a length.
After every event the books are audited, every slot that is read is checked by the fake runner, and from every state the
engine must come to rest with the right answers. ``CHATPAGER_INTERLEAVINGS`` is the number of states.
"""

import os
from collections import Counter, deque

import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from tests.engine.fakes import continuation, make_engine, request, step

STATES = int(os.environ.get("CHATPAGER_INTERLEAVINGS", "120"))
PROMPTS = {
    "a": [1, 2, 3, 4, 11, 12, 13, 14, 15],
    "b": [1, 2, 3, 4, 21, 22, 23, 24, 25],
    "c": [31, 32, 33, 34, 35, 36, 37, 38, 39],
}
"""Two full blocks each, the first of "a" and "b" in common."""
ANSWER = 2
LONG = 1000.0
"""Seconds; every lease ends before."""


class World:
    def __init__(self):
        self.engine = make_engine(num_blocks=7, max_model_len=12, max_tokens=8, max_seqs=2, host_blocks=2)
        assert self.engine.pool.usable == 6 and self.engine.leases.budget == 2
        self.now = 0.0
        self.count = 0
        self.running = {}

    # -- events -------------------------------------------------------------------------------------------------------

    def begin(self, name):
        if name in self.running:
            return False
        self.count += 1
        self.running[name] = f"{name}{self.count}"
        self.engine.add(request(self.running[name], PROMPTS[name], ANSWER, owner=name), self.now)
        return True

    def pin(self, name):
        lease = LeaseRequest(owner=name, strength=Strength.HARD, ttl=60, tokens=None)
        return self.engine.lease(lease, self.now) is not None

    def expect(self, name):
        return self.engine.prefetch(request("soon", PROMPTS[name], 1, owner=name), self.now) > 0

    def step(self, _):
        if not self.engine.has_work:
            return False
        step(self.engine, now=self.now)
        for name, request_id in list(self.running.items()):
            if final := self.engine.runner.finals.get((request_id, 0)):
                del self.running[name]
                usage = final.usage
                assert usage.cached_tokens + usage.computed_tokens == len(PROMPTS[name])
                assert self.engine.runner.tokens[request_id][0] == continuation(PROMPTS[name], ANSWER)
        return True

    def cancel(self, name):
        request_id = self.running.pop(name, None)
        if request_id is not None:
            self.engine.cancel(request_id)
        return request_id is not None

    def expire(self, _):
        self.now += LONG
        before = bool(self.engine.leases.next_deadline())
        self.engine.leases.tick(self.now)
        return before

    def close(self, name):
        known = name in self.engine.leases.heads
        self.engine.sessions.close(name)
        return known

    def lose(self, _):
        """Host memory no longer has what it had."""
        had = len(self.engine.tiers.host)
        self.engine.tiers.host.clear()
        return had > 0

    def happened(self):
        cache = self.engine.cache
        return [
            *(["evicted"] if cache.stats.evicted_blocks.total() else []),
            *(["restored"] if cache.stats.restored_tokens.total() else []),
            *(["leased"] if self.engine.pool.leased else []),
        ]

    # -- what there is ------------------------------------------------------------------------------------------------

    def state(self):
        engine = self.engine
        used = sorted({block.last_use for block in engine.pool.index.values()})
        cached = sorted(
            (
                chain(block),
                block.held,
                block.heads,
                block.left,
                block.soft,
                block.hard,
                min(block.hits, 2),
                used.index(block.last_use),
            )
            for block in engine.pool.index.values()
        )
        heads = tuple(
            (owner, len(head.chain), head.resident(), tuple((s, le.covered) for s, le in head.leases.items()))
            for owner, head in engine.leases.heads.items()
        )
        going = tuple((s.request_id[0], s.committed, len(s), s.preemptions) for s in engine.scheduler.running)
        waiting = tuple((s.request_id[0], len(s), s.preemptions, min(s.age, 2)) for s in engine.scheduler.waiting)
        host = tuple(engine.tiers.host._dead), tuple(engine.tiers.host._alive)
        return tuple(cached), len(engine.pool.free), heads, going, waiting, host, bool(engine._requests.outputs)


def chain(block):
    return (*(chain(block.parent) if block.parent else ()), block.tokens)


EVENTS = [
    *(("begin", name) for name in "abc"),
    ("step", ""),
    *(("pin", name) for name in "abc"),
    *(("expect", name) for name in "ac"),
    ("cancel", "a"),
    ("close", "a"),
    ("expire", ""),
    ("lose", ""),
]


def after(events):
    world = World()
    for kind, name in events:
        getattr(world, kind)(name)
    return world


WARM = [
    *(event for name in "abc" for event in (("begin", name), *[("step", "")] * 4)),
    ("begin", "a"),
    ("step", ""),
    ("begin", "c"),
]
"""All three have been answered, which was too much for the device, and two of them are asked again."""


def explore(most, start=()):
    """How many states were seen, how many events tried, and in how many states something had been evicted, restored or
    leased."""
    start = tuple(start)
    seen = {after(start).state(): start}
    todo, tried, happened = deque([start]), 0, Counter()
    while todo:
        path = todo.popleft()
        for kind, name in EVENTS:
            world = after(path)
            changed = getattr(world, kind)(name)
            tried += 1
            world.engine.audit()
            state = world.state()
            if changed and state not in seen:
                if len(seen) >= most:
                    return len(seen), tried, happened
                seen[state] = (*path, (kind, name))
                todo.append(seen[state])
                happened.update(world.happened())
                rests(world)
    return len(seen), tried, happened


def rests(world):
    """From here on nothing happens but steps: every turn ends, and nothing is held but by leases."""
    for _ in range(60):
        if not world.step(""):
            break
    assert not world.running and not world.engine.has_work, "a turn waits for ever"
    assert world.engine.pool.counts()["active"] == 0


@pytest.mark.parametrize("start", [(), WARM], ids=["from nothing", "from what is full"])
def test_every_order_of_events_leads_to_a_sound_state(start):
    states, tried, happened = explore(STATES, start)
    assert states == STATES and tried > states
    if start:
        assert happened["evicted"] > states / 2
        assert happened["restored"] > states / 20
        assert happened["leased"] > states / 20


@pytest.mark.slow
def test_many_more():
    for start in ((), WARM):
        print(explore(50 * STATES, start))
