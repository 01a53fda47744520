"""What somebody is still writing is computed while nothing else is, and at nobody's cost."""

import pytest

from chatpager.engine.block import EvictionClass
from chatpager.engine.drafts import DRAFT
from chatpager.engine.heads import Strength
from chatpager.engine.messages import DraftRequest
from tests.engine.fakes import answer, make_engine, request, run, step

LONG = list(range(100, 140))
"""Ten blocks; nine can be matched by a prompt of the same length."""


def write(engine, prompt, owner="w"):
    engine.draft(DraftRequest(owner=owner, prompt_token_ids=list(prompt)), 0.0)


def draft_steps(engine):
    return [sum(count for _, count in rows) for rows in engine.runner.steps if rows[0][0] == DRAFT]


class TestIdle:
    def test_is_computed_in_slices_and_saves_the_turn_its_prompt(self):
        engine = make_engine(max_tokens=16)
        write(engine, LONG)
        assert engine.has_work
        run(engine)
        assert draft_steps(engine) == [13, 13, 13]
        usage = answer(engine, "turn", [*LONG, 7, 8]).usage
        assert (usage.cached_tokens, usage.draft_tokens, usage.computed_tokens) == (36, 36, 6)

    def test_tells_nobody(self):
        engine = make_engine()
        write(engine, LONG)
        while engine.has_work:
            assert step(engine) == []
        stats = engine.stats()
        assert (stats.queried_tokens, stats.hit_tokens, stats.running, stats.waiting) == (0, 0, 0, 0)

    def test_what_a_draft_computed_is_counted_once(self):
        engine = make_engine()
        write(engine, LONG)
        run(engine)
        assert answer(engine, "turn", LONG).usage.draft_tokens == 36
        assert answer(engine, "again", LONG).usage.draft_tokens == 0

    def test_what_was_there_before_is_not_the_draft_s(self):
        engine = make_engine()
        answer(engine, "before", LONG[:17], owner="s")
        write(engine, LONG)
        run(engine)
        usage = answer(engine, "turn", LONG, owner="s").usage
        assert (usage.cached_tokens, usage.draft_tokens) == (36, 20)

    def test_what_the_turn_computed_itself_is_not_the_draft_s_later(self):
        engine = make_engine()
        write(engine, LONG)
        run(engine)
        engine.cache.reset()
        assert answer(engine, "turn", LONG).usage.draft_tokens == 0
        assert answer(engine, "again", LONG).usage.draft_tokens == 0

    def test_a_short_one_is_nothing(self):
        engine = make_engine()
        write(engine, [1, 2, 3, 4])
        run(engine)
        assert engine.runner.steps == []

    def test_without_a_cache_there_is_nothing_to_compute(self):
        engine = make_engine(caching=False)
        write(engine, LONG)
        assert not engine.has_work

    def test_what_went_to_host_memory_meanwhile_is_told_as_host_memory_s(self):
        engine = make_engine(num_blocks=14, host_blocks=20)
        write(engine, LONG)
        run(engine)
        answer(engine, "other", range(200, 240), 1, owner="t")
        usage = answer(engine, "turn", LONG, 1, owner="s").usage
        assert usage.host_tokens > 0
        assert usage.draft_tokens <= usage.cached_tokens - usage.host_tokens

    def test_what_host_memory_has_is_brought_back_and_not_computed(self):
        engine = make_engine(num_blocks=14, host_blocks=20)
        answer(engine, "before", LONG[:28], owner="s")
        answer(engine, "other", range(200, 244), owner="t")
        engine.sessions.close("t")
        prompt = [*LONG[:28], *range(9)]
        write(engine, prompt)
        run(engine)
        assert sum(draft_steps(engine)) <= 12
        usage = answer(engine, "turn", prompt, 1, owner="s").usage
        assert (usage.cached_tokens, usage.draft_tokens) == (36, 8)


class TestAtNobodysCost:
    def test_nothing_is_computed_of_it_while_another_turn_runs(self):
        engine = make_engine()
        engine.add(request("turn", [1, 2, 3], 5), 0.0)
        write(engine, LONG)
        for _ in range(5):
            step(engine)
            assert all(name == "turn" for rows in engine.runner.steps for name, _ in rows)
        run(engine)
        assert draft_steps(engine)

    def test_a_turn_waits_for_one_slice_at_most(self):
        engine = make_engine(max_tokens=8)
        write(engine, LONG)
        step(engine)
        engine.add(request("turn", [1, 2, 3], 3), 0.0)
        done = len(draft_steps(engine))
        while "turn" not in {name for name, _ in engine.runner.finals}:
            step(engine)
        assert len(draft_steps(engine)) <= done + 1
        run(engine)
        assert answer(engine, "mine", LONG).usage.draft_tokens == 36

    def test_a_session_s_blocks_are_not_taken_for_it(self):
        engine = make_engine(num_blocks=14)
        answer(engine, "kept", range(200, 240), owner="t")
        before = engine.sessions.cache_of("t", 0.0).device_tokens
        write(engine, LONG)
        run(engine)
        assert engine.sessions.cache_of("t", 0.0).device_tokens == before == 43
        assert draft_steps(engine) == []

    @pytest.mark.parametrize("blocks", range(14, 24))
    def test_not_for_the_copy_of_a_tail_either(self, blocks):
        engine = make_engine(num_blocks=blocks, max_tokens=64)
        dead = [900, 901, 902, 903, 904]
        answer(engine, "nobody's", dead, 1)
        owners = []
        while len(engine.pool.free) >= 3:
            owners.append(f"s{len(owners)}")
            answer(engine, owners[-1], range(10 * len(owners), 10 * len(owners) + 8), 1, owner=owners[-1])
        room = 4 * (engine.cache.spare() - 3)
        write(engine, [*dead, *range(800, 804 + room)])
        run(engine)
        assert all(engine.sessions.cache_of(owner, 0.0).device_tokens == 8 for owner in owners)

    def test_blocks_that_belong_to_nobody_are(self):
        engine = make_engine(num_blocks=14)
        answer(engine, "gone", range(200, 240))
        write(engine, LONG)
        run(engine)
        assert answer(engine, "turn", LONG).usage.draft_tokens == 36

    def test_not_even_where_its_own_beginning_is_what_could_be_spared(self):
        engine = make_engine(num_blocks=14)
        answer(engine, "kept", range(200, 236), 1, owner="t")
        engine.leases.acquire("t", Strength.SOFT, 60)
        answer(engine, "cold", LONG[:17], 1)
        before = engine.sessions.cache_of("t", 0.0).device_tokens
        engine.leases.take_events()
        write(engine, LONG)
        run(engine)
        assert engine.sessions.cache_of("t", 0.0).device_tokens == before > 0
        assert engine.leases.take_events() == []


class TestChanges:
    def test_what_the_next_draft_no_longer_contains_is_dead_at_once(self):
        engine = make_engine()
        write(engine, LONG)
        run(engine)
        classes = [block.eviction_class for block in engine.pool.index.values()]
        assert classes == [EvictionClass.IDLE] * 9
        write(engine, [*LONG[:20], *range(4)])
        run(engine)
        classes = sorted(block.eviction_class for block in engine.pool.index.values())
        assert classes == [EvictionClass.DEAD] * 4 + [EvictionClass.IDLE] * 5

    def test_only_the_latest_is_computed(self):
        engine = make_engine()
        write(engine, LONG)
        write(engine, range(8))
        run(engine)
        assert sum(draft_steps(engine)) == 5
        assert answer(engine, "turn", LONG).usage.draft_tokens == 0

    def test_each_writer_has_one(self):
        engine = make_engine()
        write(engine, LONG[:9], "a")
        write(engine, range(9), "b")
        run(engine)
        assert answer(engine, "a", LONG[:9]).usage.draft_tokens == 8
        assert answer(engine, "b", range(9)).usage.draft_tokens == 8

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_who_writes_no_more_keeps_nothing(self, when):
        engine = make_engine()
        write(engine, LONG)
        if when == "after":
            run(engine)
        write(engine, [])
        run(engine)
        assert not engine.leases.heads
        assert all(block.eviction_class is EvictionClass.DEAD for block in engine.pool.index.values())

    def test_one_that_was_given_up_while_it_was_computed_has_no_head(self):
        engine = make_engine(max_tokens=4)  # a slice takes two steps
        write(engine, LONG)
        step(engine)
        write(engine, [])
        run(engine)
        assert not engine.leases.heads

    def test_the_seeds_of_answers_do_not_depend_on_drafts(self):
        def seed(drafts):
            engine = make_engine()
            engine._intake._seed = 7
            for _ in range(drafts):
                write(engine, LONG)
            engine.add(request("turn", [1, 2, 3], 1), 0.0)
            return engine.scheduler.waiting[0].seed

        assert seed(0) == seed(3)

    @pytest.mark.parametrize("fault", ["raise_for", "nan_for"])
    def test_one_that_fails_is_over_and_the_engine_goes_on(self, fault):
        engine = make_engine()
        getattr(engine.runner, fault).add(DRAFT)
        write(engine, LONG)
        run(engine)
        assert len(draft_steps(engine)) <= 2
        assert answer(engine, "turn", LONG).usage.draft_tokens == 0

    @pytest.mark.parametrize("first", range(20))
    def test_one_whose_names_are_taken_by_other_blocks_is_over(self, first):
        engine = make_engine(hash_bits=1)
        write(engine, range(first, first + 40))
        for _ in range(20):
            step(engine)
        assert not engine.has_work

    def test_one_that_was_interrupted_goes_on(self):
        engine = make_engine()
        write(engine, LONG)
        run_plan = engine.runner.run

        def interrupted(plan):
            engine.runner.run = run_plan
            raise KeyboardInterrupt

        engine.runner.run = interrupted
        with pytest.raises(KeyboardInterrupt):
            step(engine)
        run(engine)
        assert answer(engine, "turn", LONG).usage.draft_tokens == 36
