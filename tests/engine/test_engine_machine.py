"""A state machine of the whole engine on a checkable model: adds, steps, cancels, stops, faults, in any order.

After every rule the invariants of pool, cache and queues hold; every answer equals the oracle's, whatever was shared,
evicted, preempted, forked or retried on the way.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatpager.engine.heads import Strength
from chatpager.engine.messages import DraftRequest, LeaseRequest, PublishPrefix
from chatpager.engine.published import OWNER
from chatpager.errors import InvalidRequest
from tests.engine.fakes import collect, continuation, make_engine, request
from tests.engine.test_cache_events import follow, full

STEPS = int(os.environ.get("CHATPAGER_MACHINE_STEPS", "60"))
EXAMPLES = int(os.environ.get("CHATPAGER_MACHINE_EXAMPLES", "340"))  # 20,400 steps; 17,000 make a million
TRACED_EXAMPLES = 60

shared = (5,) * 12
heads = st.sampled_from(
    [(), (1, 2, 3), (1, 2, 3, 4), tuple(range(20)), shared, (1, 2, 3, 4, *shared), (4, 3, 2, 1, *shared)]
)
published = st.sampled_from([(1, 2, 3, 4), shared[:4], shared, (1, 2, 3, 4, *shared), tuple(range(8))])
labels = st.sampled_from("pq")
owners = st.sampled_from(["", "s", "t", "u"])
tails = st.lists(st.integers(0, 6), min_size=1, max_size=12)


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(6, 40),
        model_length=st.sampled_from([16, 40, 60]),
        max_tokens=st.sampled_from([1, 3, 8, 16, 64]),
        max_seqs=st.integers(1, 6),
        caching=st.sampled_from([True, True, True, False]),
        bits=st.sampled_from([128, 8, 3, 1]),
        threshold=st.sampled_from([6, 4096]),
        share=st.sampled_from([0.0, 0.5, 1.0]),
        host=st.sampled_from([0, 3, 30]),
    )
    def start(self, blocks, model_length, max_tokens, max_seqs, caching, bits, threshold, share, host):
        self.engine = make_engine(
            num_blocks=blocks,
            max_model_len=model_length,
            max_tokens=max_tokens,
            max_seqs=min(max_seqs, max_tokens),
            caching=caching,
            hash_bits=bits,
            long_prefill_threshold=threshold,
            lease_share=share,
            host_blocks=host,
        )
        self.longest = min(model_length, 4 * (blocks - 2))  # the null block, and one for a copied tail
        self.now = 0.0
        self.asked = {}
        self.tokens, self.finals = {}, {}
        self.cancelled, self.stopped, self.faulty = set(), set(), set()
        self.past = [()]
        self.count = 0
        self.known, self.number = {}, 0

    @rule(
        head=heads,
        tail=tails,
        count=st.integers(1, 12),
        priority=st.integers(0, 2),
        salt=st.sampled_from([b"", b"t"]),
        owner=owners,
    )
    def add(self, head, tail, count, priority, salt, owner):
        self._add([*head, *tail], count, priority=priority, salt=salt, owner=owner)

    @rule(data=st.data(), tail=tails, count=st.integers(1, 8), owner=owners)
    def continue_a_finished_one(self, data, tail, count, owner):
        self._add([*data.draw(st.sampled_from(self.past)), *tail], count, owner=owner)

    @rule(
        owner=owners,
        strength=st.sampled_from(list(Strength)),
        ttl=st.floats(0.5, 100),
        tokens=st.none() | st.integers(1, 60),
    )
    def lease(self, owner, strength, ttl, tokens):
        self.engine.lease(LeaseRequest(owner=owner, strength=strength, ttl=ttl, tokens=tokens), self.now)

    @rule(owner=owners)
    def release(self, owner):
        self.engine.leases.release(owner)

    @rule(owner=owners, new=owners, tokens=st.none() | st.integers(-1, 60))
    def fork(self, owner, new, tokens):
        self.engine.fork_session(owner, new, tokens)

    @rule(owner=owners)
    def close(self, owner):
        self.engine.leases.close(owner)

    @rule(label=labels, tokens=published)
    def publish(self, label, tokens):
        before = self.engine.published.get(label)
        try:
            prefix = self.engine.publish(PublishPrefix(label=label, token_ids=list(tokens)))
        except InvalidRequest:
            assert before is not None and before.token_ids != tokens
        else:
            assert self.engine.published.longest([*tokens, 1]).blocks >= prefix.blocks

    @rule(label=labels, strength=st.sampled_from(list(Strength)))
    def lease_what_is_published(self, label, strength):
        if prefix := self.engine.published.get(label):
            self.engine.lease(LeaseRequest(owner=prefix.owner, strength=strength, ttl=30.0), self.now)

    @rule(label=labels)
    def withdraw(self, label):
        self.engine.withdraw(label)

    @rule(data=st.data(), head=heads, tail=tails, owner=st.sampled_from(["", "v", "w"]), past=st.booleans())
    def draft(self, data, head, tail, owner, past):
        head = data.draw(st.sampled_from(self.past)) if past else head
        prompt = [*head, *tail][: self.longest - 1]
        self.engine.draft(DraftRequest(owner=f"draft {owner}", prompt_token_ids=prompt if owner else []), self.now)

    @rule(seconds=st.floats(0.1, 50))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(head=heads, tail=tails, count=st.integers(1, 6), n=st.integers(2, 3))
    def add_several_samples(self, head, tail, count, n):
        if n <= self.engine.scheduler.limits.max_num_seqs:
            self._add([*head, *tail], count, n=n)

    def _add(self, prompt, count, n=1, **more):
        if len(prompt) >= self.longest:
            return
        self.count += 1
        name = f"r{self.count}"
        self.asked[name] = (prompt, min(count, self.longest - len(prompt)), n)
        self.engine.add(request(name, prompt, count, n=n, **more), self.now)

    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            outputs = self.engine.step(lambda: self.now)
            collect(outputs, self.tokens, self.finals)
            self.engine.audit()
            for output in outputs:
                if output.finish_reason:
                    history = [*self.asked[output.request_id][0], *self.tokens[output.request_id][output.index]]
                    self.past = [*self.past[-5:], tuple(history)]

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.asked)))
        self.cancelled.add(name)
        self.engine.cancel(name)
        self.engine.cancel(name)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), told=st.booleans())
    def end_some_samples(self, data, told):
        """``told``: cancelled, with a last output; else stopped, without."""
        name = data.draw(st.sampled_from(sorted(self.asked)))
        for index in data.draw(st.sets(st.integers(0, self.asked[name][2] - 1), min_size=1)):
            if (name, index) not in self.finals:
                self.stopped.add((name, index))
            (self.engine.cancel if told else self.engine.stop)(name, index)

    @rule(when=st.sampled_from(["before", "after"]))
    def one_step_raises(self, when):
        self.engine.runner.raise_once = when

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), numeric=st.booleans())
    def one_request_is_broken(self, data, numeric):
        name = data.draw(st.sampled_from(sorted(self.asked)))
        self.faulty.add(name)
        (self.engine.runner.nan_for if numeric else self.engine.runner.raise_for).add(name)

    @rule()
    def reset_the_cache(self):
        self.engine.cache.reset()

    @invariant()
    def an_ended_lease_covers_nothing(self):
        if hasattr(self, "engine"):
            self.engine.leases.tick(self.now)
            for head in self.engine.leases.heads.values():
                assert all(lease.deadline > self.now for lease in head.leases.values())

    @invariant()
    def only_what_is_published_has_a_public_head(self):
        if hasattr(self, "engine"):
            public = {prefix.owner: prefix for prefix in self.engine.published}
            for owner, head in self.engine.leases.heads.items():
                assert not owner.startswith(OWNER) or len(head.chain) <= public[owner].blocks

    @invariant()
    def everything_adds_up(self):
        if hasattr(self, "engine"):
            self.engine.audit()

    @invariant()
    def who_follows_the_events_knows_what_is_cached(self):
        if hasattr(self, "engine"):
            events, missed = self.engine.cache_events(self.number, 1 << 20)
            assert missed == 0
            follow(self.known, events)
            self.number += len(events)
            assert self.known.keys() == full(self.engine)

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        self.engine.runner.raise_for.clear()
        self.engine.runner.nan_for.clear()
        for _ in range(3000):
            if not self.engine.has_work:
                break
            collect(self.engine.step(lambda: self.now), self.tokens, self.finals)
            self.engine.audit()
        assert not self.engine.has_work, "the engine does not come to rest"
        self._every_answer_is_right()
        self.engine.cache.reset()
        assert self.engine.pool.counts() == {"free": self.engine.pool.usable, "cached": 0, "active": 0}

    def _every_answer_is_right(self):
        for name, (prompt, count, n) in self.asked.items():
            for index in range(n):
                got = self.tokens.get(name, {}).get(index, [])
                want = continuation(prompt, count, index=index)
                if (name, index) in self.stopped or name in self.cancelled or name in self.faulty:
                    assert got == want[: len(got)]
                else:
                    assert got == want
                    final = self.finals[name, index]
                    assert final.finish_reason == "length"
                    assert final.usage.cached_tokens + final.usage.computed_tokens == len(prompt)
                    assert final.usage.cached_tokens < len(prompt)


class TracedMachine(EngineMachine):
    """The first of the same examples, under the tracer."""


def limits(examples):
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


EngineMachine.TestCase.settings = limits(EXAMPLES)
TracedMachine.TestCase.settings = limits(min(EXAMPLES, TRACED_EXAMPLES))
TestEngine = pytest.mark.no_cover(EngineMachine.TestCase)
TestEngineTraced = TracedMachine.TestCase
