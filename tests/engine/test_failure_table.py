"""Bugs of the cache that were shipped elsewhere, as tests; a class is one failure, and keeps its number.

Rows about scheduling are in ``test_scheduling``; rows about leases, tiers and sessions belong to the rooms that have
them.
All run on a model whose cache can be checked (``fakes.FakeRunner`` asserts that every slot it reads holds the right
prefix).
"""

import random

import pytest

from chatpager.engine.block import BlockState
from chatpager.engine.sequence import SequenceStatus
from tests.engine.fakes import NamedByTokens, answer, continuation, make_engine, request, run, step


class TestRow01FullHitLeavesSomethingToCompute:
    @pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 12, 13])
    def test_the_same_prompt_twice(self, length):
        engine = make_engine()
        prompt = list(range(length))
        assert answer(engine, "a", prompt).usage.cached_tokens == 0
        again = answer(engine, "b", prompt).usage
        assert (again.cached_tokens, again.computed_tokens) == (length - 1, 1)


class TestRow02TheLastSampledTokenHasNoKV:
    def test_only_computed_tokens_are_found_again(self):
        engine = make_engine()
        prompt = [1, 2, 3, 4, 5]
        answer(engine, "a", prompt, 4)  # 9 tokens, of which 8 are in the cache
        history = [*prompt, *continuation(prompt, 4), 50]
        assert answer(engine, "b", history).usage.cached_tokens == 8
        engine.cache.reset()
        answer(engine, "c", prompt, 3)  # 8 tokens, of which 7 are in the cache: the second block is not full
        history = [*prompt, *continuation(prompt, 3), 50]
        assert answer(engine, "d", history).usage.cached_tokens == 7


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
        assert answer(engine, "young again", [2] * 32, 1).usage.cached_tokens == 31
        assert answer(engine, "old again", [1] * 32, 1).usage.cached_tokens < 20

    def test_a_hit_makes_a_conversation_young_again(self):
        engine = make_engine(num_blocks=25)
        answer(engine, "a", [1] * 32, 1)
        answer(engine, "b", [2] * 32, 1)
        answer(engine, "a again", [1] * 32, 1)
        answer(engine, "pressure", [3] * 48, 1)
        assert answer(engine, "a once more", [1] * 32, 1).usage.cached_tokens == 31

    def test_looking_without_admission_changes_nothing(self):
        engine = make_engine(num_blocks=25)
        answer(engine, "a", [1] * 32, 1)
        answer(engine, "b", [2] * 32, 1)
        engine.add(request("look", [1] * 32), 0.0)
        engine.cache.match(engine.scheduler.waiting[0]).rollback()
        engine.cancel("look")
        run(engine)
        answer(engine, "pressure", [3] * 48, 1)
        assert answer(engine, "b again", [2] * 32, 1).usage.cached_tokens == 31
        assert answer(engine, "a again", [1] * 32, 1).usage.cached_tokens < 20


class TestRow05FreeBlocksAreUsedBeforeCachedOnes:
    def test_partial_blocks_push_nothing_out(self):
        engine = make_engine(num_blocks=33)
        answer(engine, "kept", range(40), 1)
        for i in range(30):
            answer(engine, f"short{i}", [60 + i, 1], 1)
        evicted = {kind: count for kind, count in engine.stats().evicted_blocks.items() if count}
        assert evicted == {"dead": 8}, "30 of one block each, room for 22: they push out each other"
        assert answer(engine, "again", range(40), 1).usage.cached_tokens == 39


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


class TestRow08WhatAStepUsesIsNotGivenAway:
    def test_every_block_a_row_reads_or_copies_has_a_holder(self):
        engine = make_engine(num_blocks=18, max_tokens=64)
        pool, compute = engine.pool, engine.runner.run

        def looked_at(plan):
            used = {i for row in plan.rows for i in row.seq.block_table} | {
                row.copy[0] for row in plan.rows if row.copy
            }
            assert all(pool.blocks[i].ref > 0 for i in used)
            assert not used & set(pool.free)
            return compute(plan)

        engine.runner.run = looked_at
        for i in range(4):
            engine.add(request(f"r{i}", [i] * 14, 20, n=2), 0.0)
        run(engine)
        assert engine.stats().preemptions > 0


class TestRow10AdmissionChecksTheWholePrompt:
    """A prompt that does not fit yet waits, instead of starting and being preempted."""

    def test_its_first_chunk_would_fit(self):
        engine = make_engine(num_blocks=18, max_tokens=8)
        engine.add(request("big", range(40), 20), 0.0)
        step(engine, 6)  # it decodes: most of every step is free
        engine.add(request("late", range(50, 90), 4), 0.0)
        tokens, _ = run(engine)
        assert engine.stats().preemptions == 0
        assert tokens["late"][0] == continuation(range(50, 90), 4)

    def test_it_would_take_the_room_of_a_prompt_that_is_half_computed(self):
        engine = make_engine(num_blocks=13, max_tokens=16)
        engine.add(request("big", range(43), 1), 0.0)
        step(engine)
        engine.add(request("late", range(50, 58), 12), 0.0)
        step(engine)
        assert dict(engine.runner.steps[-1]) == {"big": 8}, "the short lane was free"
        tokens, _ = run(engine)
        assert engine.stats().preemptions == 0
        assert tokens["late"][0] == continuation(range(50, 58), 12)


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
        engine = make_engine()
        engine._intake.hasher = lambda salt: NamedByTokens([], 4)
        answer(engine, "first", [1, 1, 1, 1, 6], 1)
        answer(engine, "collides", [1, 7, 7, 7, 5, 5, 5, 5, 6], 1)
        assert engine.cache.stats.collisions > 0
        assert answer(engine, "reader", [1, 1, 1, 1, 5, 5, 5, 5, 6], 1).usage.cached_tokens == 4


class TestRow20And21SaltsSeparate:
    def test_one_salt_shares_and_two_do_not(self):
        engine = make_engine()
        prompt = list(range(12))
        answer(engine, "a1", prompt, salt=b"a")
        assert answer(engine, "b1", prompt, salt=b"b").usage.cached_tokens == 0
        assert answer(engine, "a2", prompt, salt=b"a").usage.cached_tokens == 11


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
        assert usage.cached_tokens == 14, "b's blocks got the names back"

    def test_the_named_copy_is_not_evicted_while_its_twins_child_is_named(self):
        """b's third block has a's second for its parent; under pressure the child goes first."""
        engine = make_engine(num_blocks=23, max_model_len=80)
        for name, count in (("a", 5), ("b", 12)):
            engine.add(request(name, [1, 2, 3], count), 0.0)
        run(engine)
        history = [1, 2, 3, *engine.runner.tokens["b"][0]]
        assert [b.is_tail for b in engine.pool.index.values()].count(False) == 3
        answer(engine, "greedy", range(100, 176), 2)
        assert engine.cache.stats.evicted_blocks.total() == 2 + 1, "two tails before it"
        left = [answer(engine, f"look{n}", history[: 4 * n + 1], 1).usage.cached_tokens for n in (1, 2, 3)]
        assert left == [4, 8, 9], "the end of the chain went first"

    def test_a_copy_of_another_ancestry_is_no_parent(self):
        """After eviction another prefix may hold the name: its block has our tokens but not our past."""
        engine, prompt = self.two_equal_answers_at_once()
        for seq in engine.scheduler.waiting:
            seq.hasher = NamedByTokens([], 4)
        engine._intake.hasher = lambda salt: NamedByTokens([], 4)
        step(engine, 6)  # two blocks are written, and the third begins
        engine.cancel("a")
        step(engine)
        engine.cache.reset()
        history = [*prompt, *continuation(prompt, 12)]
        past, ours, next_one = history[:4], history[4:8], history[8:12]
        engine.add(request("our past", [*past, 9], 1), 0.0)
        engine.add(request("our tokens", [8, 8, 8, 8, *ours, 9], 1), 0.0)
        run(engine)
        usage = answer(engine, "reader", [8, 8, 8, 8, *ours, *next_one, 9], 1).usage
        assert usage.cached_tokens == 8, "the third block was computed after another past"


class TestRow23ARecycledBlockForgetsItsContent:
    def test_blocks_that_were_evicted_are_not_found(self):
        engine = make_engine(num_blocks=18)
        answer(engine, "a", range(40), 1)
        answer(engine, "b", range(40, 90), 1)
        answer(engine, "c", range(20), 1)
        engine.cache.reset()
        assert answer(engine, "d", range(40), 1).usage.cached_tokens == 0


class TestRow24BooksThatBalanceAreNotEnough:
    def test_a_block_of_two_owners_is_found_though_the_sums_agree(self):
        engine = make_engine()
        for name in "ab":
            engine.add(request(name, [ord(name)] * 6, 8), 0.0)
        step(engine)
        a, b = engine.scheduler.running
        a.block_table[1], mine = b.block_table[1], a.block_table[1]
        with pytest.raises(AssertionError, match=r"is in . tables"):
            engine.audit()
        a.block_table[1] = mine
        run(engine)


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
        assert engine.stats().hit_tokens == 11

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


class TestRow32And36OtherWeightsShareNothing:
    def test_a_changed_fingerprint_or_epoch_is_a_miss(self):
        engine = make_engine(num_blocks=60)
        domain = [("model", b"weights"), ("epoch", 0)]
        engine.runner.hash_domain = lambda: domain
        assert answer(engine, "first", range(20)).usage.cached_tokens == 0
        assert answer(engine, "again", range(20)).usage.cached_tokens == 19
        domain = [("model", b"weights"), ("epoch", 1)]
        assert answer(engine, "reloaded", range(20)).usage.cached_tokens == 0
        domain = [("model", b"other weights"), ("epoch", 0)]
        assert answer(engine, "other", range(20)).usage.cached_tokens == 0


class TestPreemption:
    def test_an_equal_block_that_nobody_holds_stays_a_candidate_for_eviction(self):
        """Who gives way marks what it will ask for again, also where that is somebody else's equal block: of another
        class from then on, it was lost to the order of eviction, and the next allocation found nothing to evict."""
        engine = make_engine(num_blocks=15, max_model_len=60, max_tokens=24, max_seqs=3)
        asked = [
            (range(100, 136), 5), (range(1, 13), 4), (range(180, 210), 2),
            (range(1, 9), 12), (range(1, 13), 6), (range(1, 9), 13),
        ]  # fmt: skip
        for i, (prompt, count) in enumerate(asked):
            engine.add(request(f"r{i}", prompt, count), 0.0)
        tokens, _ = run(engine)
        assert engine.stats().preemptions > 0
        for i, (prompt, count) in enumerate(asked):
            assert tokens[f"r{i}"][0] == continuation(list(prompt), count)
