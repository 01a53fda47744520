"""Who runs when, who waits, who gives way (row 33 is ``test_failure_table``'s)."""

import random

import pytest

from chatpager.errors import InvalidRequest
from tests.engine.fakes import answer, continuation, make_engine, request, run, step


class TestRow33FairnessBetweenWarmAndCold:
    def test_a_cold_request_is_overtaken_for_a_bounded_time(self):
        """Warm requests keep coming; the cold one is admitted after at most (its length / credit) steps."""
        engine = make_engine(num_blocks=200, max_model_len=200, max_tokens=16, max_seqs=2, age_credit=8)
        warm = [1] * 40
        answer(engine, "warm", warm, 1)
        engine.add(request("cold", [2] * 80, 1), 0.0)
        order = []
        for i in range(60):
            engine.add(request(f"w{i}", [*warm, i], 2), 0.0)
            order += [o.request_id for o in step(engine) if o.finish_reason]
            if "cold" in order:
                break
        assert "cold" in order
        assert order.index("cold") > 0, "warm ones did go first"

    def test_a_long_prompt_leaves_room_for_short_ones(self):
        engine = make_engine(num_blocks=200, max_model_len=400, max_tokens=16, long_prefill_threshold=20, watermark=0.0)
        engine.add(request("long", [3] * 300, 1), 0.0)
        step(engine)
        engine.add(request("short", [4] * 8, 1), 0.0)
        (plan,) = [dict(step) for step in [engine.runner.steps[-1]]]
        assert plan == {"long": 16}
        step(engine)
        assert dict(engine.runner.steps[-1]) == {"long": 8, "short": 8}

    def test_what_does_not_fit_half_a_step_is_long(self):
        """A warm turn is not held up for the steps of a prompt below the threshold."""
        engine = make_engine(num_blocks=200, max_model_len=400, max_tokens=64, watermark=0.0)
        engine.add(request("middling", [3] * 300, 1), 0.0)
        step(engine)
        engine.add(request("warm", [4] * 8, 1), 0.0)
        step(engine)
        assert dict(engine.runner.steps[-1]) == {"middling": 32, "warm": 8}

    def test_later_prompts_leave_a_long_one_its_share(self):
        engine = make_engine(num_blocks=4000, max_model_len=4000, max_tokens=64, watermark=0.0)
        engine.add(request("long", [3] * 3000, 1), 0.0)
        step(engine)
        for i in range(40):
            engine.add(request(f"a{i}", [i, *range(200)], 1), 0.0)
            engine.add(request(f"b{i}", [i, *range(500, 530)], 1), 0.0)
            step(engine)
            assert dict(engine.runner.steps[-1])["long"] >= 32

    def test_a_running_stream_gets_a_token_in_every_step_of_a_long_prompt(self):
        engine = make_engine(num_blocks=200, max_model_len=400, max_tokens=16)
        engine.add(request("stream", [1], 30), 0.0)
        step(engine)
        engine.add(request("long", [3] * 300, 1), 0.0)
        for _ in range(15):
            outputs = step(engine)
            assert [o.request_id for o in outputs if o.token_ids] == ["stream"]


class TestTenantsTakeTurns:
    def order(self, engine):
        """The requests in the order in which they end."""
        ended = []
        while engine.stats().waiting or engine.stats().running:
            ended += [o.request_id for o in step(engine) if o.finish_reason]
        return ended

    def test_who_sends_many_waits_for_itself_and_others_for_one_of_them(self):
        engine = make_engine(num_blocks=400, max_model_len=200, max_tokens=64, max_seqs=1)
        for i in range(80):
            engine.add(request(f"a{i}", [i, 1, 2], 2, salt=b"a"), 0.0)
        for i in range(3):
            engine.add(request(f"b{i}", [i, 1, 2], 2, salt=b"b"), 0.0)
            engine.add(request(f"c{i}", [i, 3, 4, 5] * 20, 2, salt=b"c"), 0.0)
        order = self.order(engine)
        assert order.index("b0") <= 3 and order.index("b2") <= 12 and order.index("c2") <= 24
        assert [name for name in order if name[0] == "a"] == [f"a{i}" for i in range(80)]

    def test_one_who_comes_later_does_not_wait_for_what_came_before(self):
        engine = make_engine(num_blocks=400, max_model_len=200, max_tokens=64, max_seqs=1)
        for i in range(80):
            engine.add(request(f"a{i}", [i, 1, 2], 2, salt=b"a"), 0.0)
        order = []
        while len(order) < 20:
            order += [o.request_id for o in step(engine) if o.finish_reason]
        engine.add(request("b", [1, 2, 3], 2, salt=b"b"), 0.0)
        order += self.order(engine)
        assert order.index("b") <= 23

    def test_what_is_taken_back_counts_no_more(self):
        engine = make_engine(num_blocks=400, max_model_len=200, max_tokens=64, max_seqs=1)
        for i in range(80):
            engine.add(request(f"a{i}", [i, 1, 2], 2, salt=b"a"), 0.0)
        for i in range(80):
            engine.cancel(f"a{i}")
        for i in range(40):
            engine.add(request(f"b{i}", [i, 1, 2], 2, salt=b"b"), 0.0)
        engine.add(request("late", [1, 2, 3], 2, salt=b"a"), 0.0)
        assert [name for name in self.order(engine) if name[0] != "a"].index("late") <= 3

    def test_importance_comes_before_turns(self):
        engine = make_engine(num_blocks=400, max_model_len=200, max_tokens=64, max_seqs=1)
        for i in range(5):
            engine.add(request(f"a{i}", [i, 1, 2], 2, salt=b"a", priority=-1), 0.0)
        engine.add(request("b", [1, 2, 3], 2, salt=b"b"), 0.0)
        assert self.order(engine)[-1] == "b"


class TestPreemption:
    def test_the_latest_and_least_important_gives_way(self):
        engine = make_engine(num_blocks=20)
        for name, priority in (("first", 0), ("unimportant", 5), ("last", 0)):
            engine.add(request(name, [ord(name[0])] * 8, 40, priority=priority), 0.0)
        while not engine.stats().preemptions:
            step(engine)
        assert "unimportant" in [s.request_id for s in engine.scheduler.waiting]
        tokens, _ = run(engine)
        assert tokens["unimportant"][0] == continuation([ord("u")] * 8, 40)

    @pytest.mark.parametrize(("unread", "preempted"), [(["first"], "first"), (["first", "last"], "last"), ([], "last")])
    def test_of_the_equally_important_what_nobody_reads_gives_way(self, unread, preempted):
        engine = make_engine(num_blocks=20)
        for name in ("first", "last"):
            engine.add(request(name, [ord(name[0])] * 8, 50), 0.0)
        step(engine)
        for name in (*unread, "unknown"):
            engine.attend(name, is_read=False)
        while not engine.stats().preemptions:
            step(engine)
        assert [s.request_id for s in engine.scheduler.waiting] == [preempted]
        tokens, _ = run(engine)
        assert tokens[preempted][0] == continuation([ord(preempted[0])] * 8, 50)

    def test_what_is_read_again_gives_way_no_sooner_than_others(self):
        engine = make_engine(num_blocks=20)
        for name in ("first", "last"):
            engine.add(request(name, [ord(name[0])] * 8, 50), 0.0)
        for is_read in (False, True):
            engine.attend("first", is_read=is_read)
        while not engine.stats().preemptions:
            step(engine)
        assert [s.request_id for s in engine.scheduler.waiting] == ["last"]

    def test_nobody_is_preempted_more_than_the_limit(self):
        engine = make_engine(num_blocks=17, max_preemptions=2)
        for name in "abcdef":
            engine.add(request(name, [ord(name)] * 20, 35), 0.0)
        _, finals = run(engine)
        assert engine.stats().preemptions > 2
        assert max(f.usage.preemptions for f in finals.values()) <= 2

    def test_what_one_may_need_who_is_not_preempted_again_is_kept_for_it(self):
        """Both fit as they start, not as they end: the second waits, though most blocks are free."""
        engine = make_engine(num_blocks=18, max_preemptions=0)
        engine.add(request("a", [1] * 4, 56), 0.0)
        step(engine)
        engine.add(request("b", [2] * 4, 48), 0.0)
        tokens, _ = run(engine)
        assert engine.stats().preemptions == 0
        assert tokens["b"][0] == continuation([2] * 4, 48)

    def test_some_blocks_are_left_to_those_that_run_when_another_starts(self):
        engine = make_engine(num_blocks=21, watermark=0.5)
        engine.add(request("alone", [1] * 44, 2), 0.0)
        run(engine)  # with nobody to leave them to, all may be taken
        engine.cache.reset()
        engine.add(request("a", [2] * 15, 5), 0.0)
        step(engine)
        engine.add(request("b", [3] * 28, 1), 0.0)
        engine.add(request("c", [4] * 24, 1), 0.0)
        run(engine)
        started = [{name for name, _ in rows} for rows in engine.runner.steps]
        assert {"a", "c"} in started
        assert {"a", "b"} not in started

    def test_a_preempted_request_finds_its_own_blocks_again(self):
        engine = make_engine(num_blocks=26, max_seqs=4)
        engine.add(request("a", [1] * 20, 40), 0.0)
        engine.add(request("b", [2] * 20, 40), 0.0)
        while not engine.stats().preemptions:
            step(engine)
        (_waiting,) = engine.scheduler.waiting
        engine.cancel("a")
        step(engine)
        assert engine.stats().recomputed_tokens < 4, "all but the partial block was found"
        run(engine)

    def test_a_victim_that_was_planned_already_is_taken_out_of_the_plan(self):
        """The unimportant one is planned first (it needs one token), then a prompt needs its blocks."""
        engine = make_engine(num_blocks=20, max_tokens=64)
        engine.add(request("unimportant", [1] * 30, 30, priority=9), 0.0)
        engine.add(request("important", [2] * 30, 30), 0.0)
        run(engine)
        assert engine.stats().preemptions > 0


class TestDeferral:
    def test_two_requests_with_one_prefix_compute_it_once(self):
        engine = make_engine(num_blocks=60, max_tokens=8)
        prompt = list(range(30))
        engine.add(request("a", prompt, 2), 0.0)
        step(engine)
        engine.add(request("b", [*prompt, 60], 2), 0.0)
        _, finals = run(engine)
        assert finals["b", 0].usage.cached_tokens == 28
        assert engine.stats().deferred > 0

    def test_when_the_first_is_cancelled_the_second_computes(self):
        engine = make_engine(num_blocks=60, max_tokens=8)
        prompt = list(range(30))
        engine.add(request("a", prompt, 2), 0.0)
        step(engine)
        engine.add(request("b", prompt, 2), 0.0)
        step(engine)
        engine.cancel("a")
        tokens, finals = run(engine)
        assert tokens["b"][0] == continuation(prompt, 2)
        assert finals["b", 0].usage.cached_tokens == 16

    def test_nobody_waits_when_there_is_no_cache(self):
        engine = make_engine(num_blocks=60, max_tokens=64, caching=False)
        for name in "ab":
            engine.add(request(name, range(20), 2), 0.0)
        step(engine)
        assert len(engine.runner.steps[0]) == 2


class TestForks:
    def test_samples_share_the_prompt_and_copy_only_its_last_block(self):
        engine = make_engine(num_blocks=60)
        engine.add(request("a", range(10), 4, n=3), 0.0)
        step(engine)
        assert engine.pool.counts()["active"] == 3
        step(engine)
        assert engine.pool.counts()["active"] == 5, "two copies of the partial block"
        run(engine)
        assert sum(count for step in engine.runner.steps for _, count in step) == 10 + 3 * 3

    def test_the_last_sample_to_write_the_shared_block_needs_no_copy(self):
        engine, copies = make_engine(num_blocks=60), []
        compute = engine.runner.run
        engine.runner.run = lambda plan: (copies.extend(row.copy for row in plan.rows if row.copy), compute(plan))[1]
        engine.add(request("a", range(10), 4, n=3), 0.0)
        run(engine)
        assert len(copies) == 2

    def test_samples_of_a_prompt_that_fills_its_blocks_copy_nothing(self):
        engine = make_engine(num_blocks=60)
        engine.add(request("a", range(8), 4, n=3), 0.0)
        step(engine)
        step(engine)
        assert engine.pool.counts()["active"] == 2 + 3
        run(engine)

    def test_a_request_for_more_samples_than_sequences_is_refused(self):
        engine = make_engine(max_seqs=2)
        with pytest.raises(InvalidRequest, match="n is above"):
            engine.add(request("a", range(8), 4, n=3), 0.0)


class TestSeveralSamples:
    def test_siblings_that_wait_for_their_prompt_count_as_sequences(self):
        engine = make_engine(num_blocks=200, max_tokens=64, max_seqs=4)
        engine.add(request("a", range(10), 10, n=4), 0.0)
        for i in range(5):
            engine.add(request(f"b{i}", [i + 20] * 15, 10), 0.0)
        while engine.has_work:
            step(engine)
            assert len(engine.scheduler.running) <= 4

    def test_a_step_that_failed_after_it_wrote_can_be_repeated(self):
        """One row copies a shared block, another got that block meanwhile: the source must outlive the step."""
        rng = random.Random(5)
        for _ in range(60):
            engine = make_engine(num_blocks=rng.randint(17, 24), max_model_len=60, max_tokens=64, max_seqs=8)
            for i in range(4):
                engine.add(request(f"r{i}", [i] * rng.randint(1, 30), rng.randint(1, 25), n=rng.randint(1, 3)), 0.0)
            while engine.has_work:
                engine.runner.raise_once = rng.choice(["before", "after", None])
                step(engine)
            assert all(final.finish_reason == "length" for final in engine.runner.finals.values())
