"""Bugs that were shipped elsewhere, as tests (kvcache research, section 4; the numbers are its rows).

Rows about leases, tiers and sessions belong to the rooms that have them; the rest is here, on a model whose cache can
be checked (``fakes.FakeRunner`` asserts that every slot it reads holds the right prefix).
"""

import random

import pytest

from chatpager.engine.block_pool import BlockState
from chatpager.engine.sequence import SequenceStatus
from chatpager.errors import CapacityExceeded, ContextLengthExceeded, InvalidRequest
from tests.engine.fakes import VOCAB, continuation, make_engine, request, run, step


def answer(engine, name, prompt, count=4, **more):
    engine.add(request(name, prompt, count, **more), 0.0)
    tokens, finals = run(engine)
    assert tokens[name][0] == continuation(prompt, count)
    return finals[name, 0]


class TestRow01FullHitLeavesSomethingToCompute:
    @pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 12, 13])
    def test_the_same_prompt_twice(self, length):
        engine = make_engine()
        prompt = list(range(length))
        assert answer(engine, "a", prompt).usage.cached_tokens == 0
        again = answer(engine, "b", prompt).usage
        assert again.cached_tokens == (length - 1) // 4 * 4
        assert again.computed_tokens >= 1


class TestRow02TheLastSampledTokenHasNoKV:
    def test_only_computed_tokens_are_found_again(self):
        engine = make_engine()
        prompt = [1, 2, 3, 4, 5]
        answer(engine, "a", prompt, 4)  # 9 tokens, of which 8 are in the cache
        history = [*prompt, *continuation(prompt, 4), 50]
        assert answer(engine, "b", history).usage.cached_tokens == 8
        engine.cache.reset()
        answer(engine, "c", prompt, 3)  # 8 tokens, of which 7 are computed: the second block is not full
        history = [*prompt, *continuation(prompt, 3), 50]
        assert answer(engine, "d", history).usage.cached_tokens == 4


class TestRow03TheEndOfAChainIsEvictedFirst:
    def test_what_is_left_after_eviction_is_a_prefix(self):
        engine = make_engine(num_blocks=17)
        answer(engine, "old", range(40), 1)  # 10 full blocks
        answer(engine, "new", range(50, 86), 1)  # takes 9 more, so the old chain loses its end
        usage = answer(engine, "again", range(40), 1).usage
        assert 0 < usage.cached_tokens < 36
        engine.audit()


class TestRow04TheOldestConversationGoesFirst:
    def test_the_one_that_just_ended_is_still_there(self):
        engine = make_engine(num_blocks=25)
        answer(engine, "old", [1] * 32, 1)
        answer(engine, "young", [2] * 32, 1)
        answer(engine, "pressure", [3] * 48, 1)
        assert answer(engine, "young again", [2] * 32, 1).usage.cached_tokens == 28
        assert answer(engine, "old again", [1] * 32, 1).usage.cached_tokens < 20

    def test_a_hit_makes_a_conversation_young_again(self):
        engine = make_engine(num_blocks=25)
        answer(engine, "a", [1] * 32, 1)
        answer(engine, "b", [2] * 32, 1)
        answer(engine, "a again", [1] * 32, 1)
        answer(engine, "pressure", [3] * 48, 1)
        assert answer(engine, "a once more", [1] * 32, 1).usage.cached_tokens == 28

    def test_looking_without_admission_changes_nothing(self):
        engine = make_engine(num_blocks=25)
        answer(engine, "a", [1] * 32, 1)
        answer(engine, "b", [2] * 32, 1)
        engine.add(request("look", [1] * 32), 0.0)
        engine.cache.match(engine.scheduler.waiting[0]).rollback()
        engine.cancel("look")
        run(engine)
        answer(engine, "pressure", [3] * 48, 1)
        assert answer(engine, "b again", [2] * 32, 1).usage.cached_tokens == 28
        assert answer(engine, "a again", [1] * 32, 1).usage.cached_tokens < 20


class TestRow05FreeBlocksAreUsedBeforeCachedOnes:
    def test_partial_blocks_push_nothing_out(self):
        engine = make_engine(num_blocks=33)
        answer(engine, "kept", range(40), 1)
        for i in range(30):
            answer(engine, f"short{i}", [60 + i, 1], 1)
        assert engine.stats().evicted_blocks == 0
        assert answer(engine, "again", range(40), 1).usage.cached_tokens == 36


class TestRow06AMatchHoldsItsBlocks:
    def test_matched_blocks_cannot_be_taken_by_another(self):
        engine = make_engine(num_blocks=13)
        answer(engine, "a", range(16), 1)
        engine.add(request("b", range(16)), 0.0)
        match = engine.cache.match(engine.scheduler.waiting[0])
        held = [block.id for block in match.blocks]
        assert len(held) == 3
        taken = engine.cache.allocate(engine.pool.available)
        assert not set(taken) & set(held)
        engine.cache.audit([taken, held])
        match.rollback()
        engine.cache.free(taken)
        engine.audit()

    def test_a_match_ends_once(self):
        engine = make_engine()
        engine.add(request("b", range(16)), 0.0)
        match = engine.cache.match(engine.scheduler.waiting[0])
        match.rollback()
        with pytest.raises(AssertionError, match="twice"):
            match.commit()


class TestRow07ABlockIsFoundOnlyAfterItsStep:
    def test_nothing_is_published_while_the_step_runs(self):
        engine = make_engine()
        seen = []
        run_step = engine.runner.run
        engine.runner.run = lambda plan: (seen.append(len(engine.pool.index)), run_step(plan))[1]
        engine.add(request("a", range(16), 1), 0.0)
        step(engine)
        assert seen == [0]
        assert len(engine.pool.index) == 4

    def test_a_step_that_failed_publishes_nothing(self):
        engine = make_engine()
        engine.add(request("a", range(16), 1), 0.0)
        engine.runner.raise_for.add("a")
        (output,) = step(engine)
        assert output.finish_reason == "error"
        assert output.error_code == "engine_step_failed"
        assert engine.pool.index == {}
        assert engine.pool.counts()["free"] == engine.pool.usable


class TestRow10AdmissionChecksTheWholePrompt:
    def test_a_prompt_that_does_not_fit_yet_waits_instead_of_starting_and_being_preempted(self):
        engine = make_engine(num_blocks=18, max_model_len=64, max_tokens=4)
        engine.add(request("big", range(48), 4), 0.0)
        step(engine)
        engine.add(request("late", range(50, 90), 4), 0.0)
        tokens, _ = run(engine)
        assert engine.stats().preemptions == 0
        assert tokens["late"][0] == continuation(range(50, 90), 4)


class TestRow17CancelBeforeAnythingIsAllocated:
    def test_every_state_can_be_cancelled(self):
        engine = make_engine(max_tokens=4, max_seqs=1)
        for name in ("running", "waiting", "queued"):
            engine.add(request(name, [7] * 10, 3), 0.0)
        engine.cancel("queued")
        step(engine)  # "running" is in the middle of its prompt
        engine.cancel("running")
        engine.cancel("waiting")
        engine.cancel("waiting")
        engine.cancel("never was")
        _tokens, finals = run(engine)
        assert {k: f.finish_reason for k, f in finals.items()} == {
            ("running", 0): "cancelled",
            ("waiting", 0): "cancelled",
            ("queued", 0): "cancelled",
        }
        assert engine.pool.counts()["active"] == 0

    def test_a_preempted_request_can_be_cancelled(self):
        engine = make_engine(num_blocks=18)
        for name in ("a", "b"):
            engine.add(request(name, [ord(name)] * 30, 28), 0.0)
        while not engine.stats().preemptions:
            step(engine)
        preempted = engine.scheduler.waiting[0]
        assert preempted.status is SequenceStatus.WAITING
        engine.cancel(preempted.request_id)
        run(engine)
        assert engine.pool.counts()["active"] == 0


class TestRow18And19CollisionsServeNobodyElsesBlocks:
    @pytest.mark.parametrize("bits", [1, 2, 8])
    def test_equal_names_with_other_tokens_are_misses(self, bits):
        rng = random.Random(bits)
        engine = make_engine(num_blocks=60, hash_bits=bits)
        tail = [5] * 8
        for i in range(60):
            head = [rng.randrange(4) for _ in range(8)]
            answer(engine, f"r{i}", [*head, *tail][: rng.randrange(1, 17)], 6)
        assert engine.cache.stats.collisions > 0

    def test_a_block_behind_a_collision_is_not_published(self):
        engine = make_engine(hash_bits=1)
        prompts = [[a, a, a, a, 5, 5, 5, 5, 6] for a in range(6)]
        for i, prompt in enumerate(prompts):
            answer(engine, f"first{i}", prompt, 1)
        for i, prompt in enumerate(prompts):
            answer(engine, f"second{i}", prompt, 1)


class TestRow20And21SaltsSeparate:
    def test_one_salt_shares_and_two_do_not(self):
        engine = make_engine()
        prompt = list(range(12))
        answer(engine, "a1", prompt, salt=b"a")
        assert answer(engine, "b1", prompt, salt=b"b").usage.cached_tokens == 0
        assert answer(engine, "a2", prompt, salt=b"a").usage.cached_tokens == 8


class TestRow22Duplicates:
    def two_equal_answers_at_once(self):
        """Two requests whose prompts differ in nothing produce the same blocks side by side."""
        engine = make_engine(num_blocks=60)
        prompt = [1, 2, 3]  # shorter than a block, so neither waits for the other
        for name in ("a", "b"):
            engine.add(request(name, prompt, 12), 0.0)
        return engine, prompt

    def test_the_second_copy_stays_without_a_name_and_is_freed_first(self):
        engine, _prompt = self.two_equal_answers_at_once()
        step(engine, 8)
        assert len(engine.pool.index) == 2
        a, b = engine.scheduler.running
        assert not set(a.block_table) & set(b.block_table)
        engine.cancel("b")
        step(engine)
        assert all(engine.pool.blocks[i].state is BlockState.CACHED for i in a.block_table[:2])
        run(engine)

    def test_when_the_first_copy_is_evicted_the_second_takes_its_name(self):
        engine, prompt = self.two_equal_answers_at_once()
        step(engine, 8)
        engine.cancel("a")
        step(engine)
        assert engine.cache.reset() > 0, "nobody holds the named copies any more"
        tokens, _ = run(engine)
        assert tokens["b"][0] == continuation(prompt, 12)
        usage = answer(engine, "c", [*prompt, *tokens["b"][0], 9], 1).usage
        assert usage.cached_tokens == 12, "b's blocks got the names back"

    def test_the_named_copy_is_not_evicted_while_its_twins_child_is_in_use(self):
        engine, _prompt = self.two_equal_answers_at_once()
        step(engine, 8)
        seq = next(s for s in engine.scheduler.running if s.request_id == "b")
        engine.cancel("a")
        step(engine)
        step(engine)
        seq_tokens = list(seq.token_ids)
        while seq.committed < 12:
            step(engine)
        assert seq_tokens == seq.token_ids[: len(seq_tokens)]
        run(engine)

    def test_a_copy_of_another_ancestry_is_no_parent(self):
        """After eviction another prefix may hold the name: its block has our tokens but not our past."""
        engine = make_engine(num_blocks=60, hash_bits=1)
        rng = random.Random(3)
        live = []
        for i in range(400):
            if rng.random() < 0.4:
                prompt = [rng.randrange(2) for _ in range(3)]
                engine.add(request(f"r{i}", prompt, rng.randrange(4, 20)), 0.0)
                live.append((f"r{i}", prompt))
            if rng.random() < 0.1:
                engine.cache.reset()
            step(engine)
        run(engine)


class TestRow23ARecycledBlockForgetsItsContent:
    def test_blocks_that_were_evicted_are_not_found(self):
        engine = make_engine(num_blocks=18)
        answer(engine, "a", range(40), 1)
        answer(engine, "b", range(40, 90), 1)
        answer(engine, "c", range(20), 1)
        engine.cache.reset()
        assert answer(engine, "d", range(40), 1).usage.cached_tokens == 0


class TestRow25And26HitsAreCountedOnce:
    def test_recomputing_after_preemption_is_no_hit(self):
        engine = make_engine(num_blocks=18)
        for name in ("a", "b", "c"):
            engine.add(request(name, [ord(name)] * 25, 30), 0.0)
        _, finals = run(engine)
        stats = engine.stats()
        assert stats.preemptions > 0
        assert stats.recomputed_tokens > 0
        assert stats.hit_tokens == 0
        assert stats.queried_tokens == 75
        assert all(f.usage.cached_tokens == 0 for f in finals.values())

    def test_waiting_for_room_does_not_count(self):
        engine = make_engine(max_seqs=1)
        engine.add(request("a", range(12), 8), 0.0)
        engine.add(request("b", range(12), 1), 0.0)
        run(engine)
        assert engine.stats().queried_tokens == 24
        assert engine.stats().hit_tokens == 8

    def test_waiting_for_blocks_does_not_count(self):
        engine = make_engine(num_blocks=18)
        engine.add(request("a", range(40), 20), 0.0)
        engine.add(request("b", range(50, 80), 2), 0.0)
        run(engine)
        assert engine.stats().queried_tokens == 70


class TestRow27TheSourcesSumToThePrompt:
    def test_cached_and_computed(self):
        engine = make_engine(num_blocks=40)
        rng = random.Random(1)
        total = cached = 0
        for i in range(40):
            prompt = [rng.randrange(2) for _ in range(rng.randrange(1, 30))]
            usage = answer(engine, f"r{i}", prompt, 2).usage
            assert usage.cached_tokens + usage.computed_tokens == usage.prompt_tokens == len(prompt)
            total, cached = total + len(prompt), cached + usage.cached_tokens
        assert (engine.stats().queried_tokens, engine.stats().hit_tokens) == (total, cached)


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

    def test_a_running_stream_gets_a_token_in_every_step_of_a_long_prompt(self):
        engine = make_engine(num_blocks=200, max_model_len=400, max_tokens=16)
        engine.add(request("stream", [1], 30), 0.0)
        step(engine)
        engine.add(request("long", [3] * 300, 1), 0.0)
        for _ in range(15):
            outputs = step(engine)
            assert [o.request_id for o in outputs if o.token_ids] == ["stream"]


class TestPoisonedContent:
    def test_blocks_of_a_failed_request_are_not_found_again_nor_what_was_built_on_them(self):
        engine = make_engine(num_blocks=60, max_tokens=8)
        prompt = list(range(30))
        engine.add(request("bad", prompt, 4), 0.0)
        for _ in range(2):
            step(engine)
        assert len(engine.pool.index) == 4
        engine.add(request("child", prompt[:17], 1), 0.0)
        engine.runner.nan_for.add("bad")
        _, finals = run(engine)
        assert finals["bad", 0].error_code == "engine_numeric_error"
        assert engine.pool.index == {} or all(b.tokens != (0, 1, 2, 3) for b in engine.pool.index.values())
        assert answer(engine, "good", prompt, 4).usage.cached_tokens == 0

    def test_what_it_found_in_the_cache_stays(self):
        engine = make_engine(num_blocks=60)
        answer(engine, "good", range(9), 1)
        engine.runner.nan_for.add("bad")
        engine.add(request("bad", range(14), 4), 0.0)
        run(engine)
        assert answer(engine, "again", range(9), 1).usage.cached_tokens == 8

    def test_siblings_of_one_request_end_together(self):
        engine = make_engine()
        engine.add(request("bad", range(9), 6, n=3), 0.0)
        step(engine)
        engine.runner.raise_for.add("bad")
        _, finals = run(engine)
        assert [finals["bad", i].finish_reason for i in range(3)] == ["error"] * 3
        assert engine.pool.counts()["active"] == 0

    def test_the_others_of_the_batch_go_on(self):
        engine = make_engine()
        engine.add(request("bad", [1] * 5, 6), 0.0)
        engine.add(request("good", [2] * 5, 6), 0.0)
        engine.runner.raise_for.add("bad")
        tokens, finals = run(engine)
        assert finals["bad", 0].finish_reason == "error"
        assert tokens["good"][0] == continuation([2] * 5, 6)


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

    def test_nobody_is_preempted_more_than_the_limit(self):
        engine = make_engine(num_blocks=17, max_preemptions=2)
        for name in "abcdef":
            engine.add(request(name, [ord(name)] * 20, 35), 0.0)
        _, finals = run(engine)
        assert engine.stats().preemptions > 2
        assert max(f.usage.preemptions for f in finals.values()) <= 2

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


class TestRefusals:
    def test_bad_requests_change_nothing(self):
        engine = make_engine()
        engine.add(request("a", [1, 2]), 0.0)
        for bad, error in [
            (request("a", [1]), InvalidRequest),
            (request("b", []), InvalidRequest),
            (request("b", [VOCAB]), InvalidRequest),
            (request("b", [-1]), InvalidRequest),
            (request("b", [1] * 64), ContextLengthExceeded),
            (request("b", [1] * 60, 10, min_tokens=5), ContextLengthExceeded),
        ]:
            with pytest.raises(error):
                engine.add(bad, 0.0)
        assert len(engine.scheduler.waiting) == 1
        run(engine)

    def test_a_prompt_larger_than_the_pool_is_refused(self):
        engine = make_engine(num_blocks=8, max_model_len=64)
        with pytest.raises(CapacityExceeded, match="7"):
            engine.add(request("a", [1] * 40), 0.0)

    def test_the_answer_ends_at_the_context_limit(self):
        engine = make_engine(max_model_len=20)
        engine.add(request("a", [1] * 15, None), 0.0)
        tokens, finals = run(engine)
        assert len(tokens["a"][0]) == 5
        assert finals["a", 0].finish_reason == "length"


class TestEndings:
    def test_eos_ends_and_can_be_ignored(self):
        prompt = [1, 2, 3]
        eos = continuation(prompt, 3)[2]
        engine = make_engine(eos={eos})
        engine.add(request("a", prompt, 10), 0.0)
        engine.add(request("b", prompt, 6, ignore_eos=True), 0.0)
        engine.add(request("c", prompt, 10, min_tokens=4), 0.0)
        tokens, finals = run(engine)
        assert tokens["a"][0] == continuation(prompt, 3)
        assert finals["a", 0].finish_reason == "stop"
        assert tokens["b"][0] == continuation(prompt, 6)
        assert len(tokens["c"][0]) >= 4

    def test_stop_token_ids_end(self):
        prompt = [1, 2, 3]
        stop = continuation(prompt, 2)[1]
        engine = make_engine()
        engine.add(request("a", prompt, 10, stop_token_ids=[stop]), 0.0)
        tokens, finals = run(engine)
        assert tokens["a"][0] == continuation(prompt, 2)
        assert finals["a", 0].finish_reason == "stop"

    def test_a_reader_that_found_a_stop_string_ends_its_sequence_quietly(self):
        engine = make_engine()
        engine.add(request("a", [1], 10, n=2), 0.0)
        step(engine)
        engine.stop("a", 0)
        engine.stop("a", 0)
        engine.stop("nobody", 0)
        tokens, finals = run(engine)
        assert len(tokens["a"][0]) == 1
        assert ("a", 0) not in finals
        assert finals["a", 1].finish_reason == "length"

    def test_time_is_told_in_the_callers_seconds(self):
        engine = make_engine(max_tokens=8, max_seqs=1)
        engine.add(request("a", range(12), 1), 10.0)
        engine.add(request("b", range(12), 2), 10.0)
        for now in (11.0, 13.0, 17.0, 18.0):
            step(engine, now=now)
        finals = engine.runner.finals
        assert (finals["a", 0].usage.queue_seconds, finals["a", 0].usage.prefill_seconds) == (1.0, 2.0)
        assert (finals["b", 0].usage.queue_seconds, finals["b", 0].usage.prefill_seconds) == (7.0, 0.0)

    def test_a_long_prompt_tells_its_progress(self):
        engine = make_engine(max_tokens=8)
        engine.add(request("a", range(20), 1), 0.0)
        progress = [o.prefilled for _ in range(3) for o in step(engine)]
        assert progress == [(8, 20, 0), (16, 20, 0), None]


class TestHalfEndedRequests:
    def test_cancelling_ends_the_samples_that_are_left(self):
        engine = make_engine()
        engine.add(request("a", [1], 10, n=2), 0.0)
        step(engine)
        engine.stop("a", 0)
        engine.cancel("a")
        _, finals = run(engine)
        assert {k: f.finish_reason for k, f in finals.items()} == {("a", 1): "cancelled"}


class TestDeterminism:
    def test_the_same_trace_makes_the_same_decisions(self):
        def trace():
            rng = random.Random(11)
            engine = make_engine(num_blocks=20)
            for i in range(200):
                if rng.random() < 0.3:
                    prompt = [rng.randrange(3) for _ in range(rng.randrange(1, 25))]
                    engine.add(request(f"r{i}", prompt, rng.randrange(1, 12), priority=rng.randrange(2)), 0.0)
                step(engine)
            run(engine)
            return engine.runner.steps

        assert trace() == trace()


class TestMemoryFigures:
    def test_the_block_trace_of_the_founding_text(self):
        """Yardsticks, row 3: 20 tokens take 2 blocks of 16, the 33rd token a third; all are free at the end."""
        engine = make_engine(num_blocks=20, block_size=16, max_model_len=128, max_tokens=64, caching=False)
        engine.add(request("a", range(20), 20), 0.0)
        active = []
        for _ in range(20):
            step(engine)
            running = engine.scheduler.running
            if running:
                active.append((running[0].committed, engine.pool.counts()["active"]))
        assert active[0] == (20, 2)
        assert dict(active)[32] == 2
        assert dict(active)[33] == 3
        assert engine.pool.counts() == {"free": 19, "cached": 0, "active": 0}

    def test_waste_is_less_than_a_block_a_sequence(self):
        engine = make_engine(num_blocks=200, block_size=16, max_model_len=512, max_tokens=512)
        for i in range(6):
            engine.add(request(f"r{i}", [i] * (60 + i), 30), 0.0)
        for _ in range(10):
            step(engine)
        memory = engine.stats().memory
        used = sum(seq.committed for seq in engine.scheduler.running)
        assert memory.used_slots == used
        assert memory.allocated_slots - used < 16 * 6
        assert memory.waste == pytest.approx(1 - used / memory.allocated_slots)
        assert memory.utilisation == pytest.approx(used / (199 * 16))

    def test_shared_blocks_count_once_and_an_idle_engine_wastes_nothing(self):
        engine = make_engine(num_blocks=60)
        assert engine.stats().memory.waste == 0.0
        engine.add(request("a", range(8), 4, n=4), 0.0)
        step(engine)
        assert engine.stats().memory.allocated_slots == 8
        run(engine)

    def test_candidates_for_eviction_do_not_pile_up(self):
        engine = make_engine(num_blocks=20)
        most = 0
        for i in range(300):
            answer(engine, f"r{i}", range(13), 1)
            most = max(most, len(engine.cache._candidates))
        assert 20 < most <= 2 * 20 + 64
