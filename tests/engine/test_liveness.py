"""Nobody waits for ever: not for leases, and not for those who have less to compute (I12, row 33)."""

import math
import random
from statistics import quantiles

import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import LeaseRequest
from tests.engine.fakes import answer, make_engine, request, run, step

SOFT, HARD = Strength.SOFT, Strength.HARD
LONGEST, STEP = 64, 16
"""Tokens of the longest request, and of one step."""


def leased(hard, soft, *, blocks=65, budget=None):
    """An engine whose sessions of nine blocks have these leases, the last one the longest."""
    engine = make_engine(num_blocks=blocks, max_model_len=LONGEST, max_tokens=STEP, lease_share=1.0, watermark=0.0)
    engine.leases.budget = budget if budget is not None else engine.leases.budget
    for i, strength in enumerate([HARD] * hard + [SOFT] * soft):
        answer(engine, f"s{i}", [i] * 36, 1, owner=f"s{i}")
        engine.lease(LeaseRequest(owner=f"s{i}", strength=strength, ttl=10.0 + i), 0.0)
    engine.leases.take_events()
    return engine


def longest(engine):
    """Steps until the longest request that there may be has its first token, and whose leases were revoked for it."""
    engine.add(request("longest", [900] * (LONGEST - 1), 1), 0.0)
    count = 1
    while not any(o.request_id == "longest" and o.token_ids for o in step(engine)):
        count += 1
        assert count < 1000
    revoked = [e for e in engine.leases.take_events() if e.change == "revoked"]
    assert all(e.reason for e in revoked)
    run(engine)
    return count, [(e.owner, e.strength) for e in revoked]


class TestLeasesNeverStandInTheWay:
    AT_ONCE = math.ceil((LONGEST - 1) / STEP)
    """Steps that computing the longest prompt takes: it was admitted in the first of them."""

    def test_hard_ones_to_the_budget_leave_the_longest_request_its_room(self):
        engine = leased(hard=7, soft=0)
        assert engine.pool.leased == engine.leases.budget == 64 - LONGEST // 4 - 1
        assert longest(engine) == (self.AT_ONCE, [])

    def test_soft_ones_go_first_the_longest_time_left_before_others(self):
        engine = leased(hard=5, soft=2)
        assert len(engine.pool.free) == 1
        assert longest(engine) == (self.AT_ONCE, [("s6", SOFT), ("s5", SOFT)])

    def test_hard_ones_go_for_no_more_than_what_the_soft_ones_do_not_give(self):
        """Nothing is free but one block, sixteen are needed: one soft lease gives nine, one hard one the rest."""
        steps, revoked = longest(leased(hard=6, soft=1, budget=64))
        assert steps == self.AT_ONCE
        assert sorted(revoked) == [("s5", HARD), ("s6", SOFT)]

    def test_where_all_of_the_pool_is_under_hard_leases_two_of_them_go(self):
        engine = leased(hard=7, soft=0, budget=64)
        assert engine.pool.leased == 63
        assert longest(engine) == (self.AT_ONCE, [("s6", HARD), ("s5", HARD)])

    @pytest.mark.parametrize("seed", range(30))
    def test_it_waits_no_longer_than_for_those_that_run(self, seed):
        """Whatever is leased: those that run have their tokens to go, and then there is room."""
        rng = random.Random(seed)
        hard = rng.randint(0, 7)
        engine = leased(hard, 7 - hard, budget=rng.choice([None, 64]))
        to_go = [rng.randint(1, 20) for _ in range(rng.randint(1, 3))]
        for i, count in enumerate(to_go):
            engine.add(request(f"runs{i}", [800 + i] * 8, count), 0.0)
        step(engine, 2)
        computing = math.ceil((LONGEST - 1) / (STEP - len(to_go)))
        assert longest(engine)[0] <= max(to_go) + computing


class TestColdRequestsAreOvertakenForABoundedTime:
    """A request of C uncached tokens is behind every one with fewer until it has waited ceil(C / age_credit) passes:
    steps in which there is a seat. From then on none that came later is before it. A seat is free after as many steps
    as the longest answer among the others takes, so it starts within

        (ceil(C / age_credit) + the cold ones before it + 1) * steps of an answer
    """

    CREDIT, SEATS, ANSWER = 8, 2, 3
    PROMPT, WARM = 80, [1] * 40

    def waits(self, credit, steps=800):
        """Of each cold request: steps until it started, those that it had to let by, and what bounds the steps. Warm
        turns never run out."""
        rng = random.Random(3)
        engine = make_engine(
            num_blocks=400, max_model_len=200, max_tokens=64, max_seqs=self.SEATS, age_credit=credit, watermark=0.0
        )
        answer(engine, "warm", self.WARM, 1)
        waiting, found, count = {}, [], 0
        for now in range(steps):
            while sum(seq.request_id.startswith("warm") for seq in engine.scheduler.waiting) < 4:
                count += 1
                tail = [rng.randrange(900) for _ in range(rng.randint(1, 4))]
                engine.add(request(f"warm{count}", [*self.WARM, *tail], self.ANSWER), 0.0)
            if rng.random() < 0.03:
                name, size = f"cold{now}", rng.randint(40, self.PROMPT)
                before = len(waiting)
                engine.add(request(name, [rng.randrange(900) for _ in range(size)], 1), 0.0)
                waiting[name] = now, (math.ceil(size / self.CREDIT) + before + 1) * self.ANSWER, count
            step(engine)
            still = {seq.request_id for seq in engine.scheduler.waiting}
            for name in waiting.keys() - still:
                since, bound, earlier = waiting.pop(name)
                found.append((now - since, count - earlier, bound))
        return found, waiting

    def test_by_what_the_rule_of_ageing_says(self):
        found, _ = self.waits(self.CREDIT)
        assert len(found) > 15
        assert all(wait <= bound for wait, _, bound in found)
        p99 = quantiles([wait for wait, _, _ in found], n=100, method="inclusive")[98]
        assert p99 <= (math.ceil(self.PROMPT / self.CREDIT) + 2) * self.ANSWER, "with two of them at once"
        assert max(overtaken for _, overtaken, _ in found) > 5, "warm ones did go first"

    def test_and_without_it_they_would_wait_for_ever(self):
        found, waiting = self.waits(credit=0)
        assert not found
        assert len(waiting) > 20
