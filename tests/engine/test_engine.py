"""The engine's face: what it refuses, how requests end, what it says of its memory."""

import random

import msgspec
import pytest

from chatpager.errors import CapacityExceeded, ContextLengthExceeded, InvalidRequest
from tests.engine.fakes import VOCAB, answer, continuation, make_engine, request, run, step


class TestRefusals:
    def test_bad_requests_change_nothing(self):
        engine = make_engine()
        engine.add(request("a", [1, 2]), 0.0)
        for bad, error in [
            (request("a", [1]), InvalidRequest),
            (request("b", []), InvalidRequest),
            (request("b", [VOCAB]), InvalidRequest),
            (request("b", [-1]), InvalidRequest),
            (request("b", [1], logit_bias={VOCAB: 1.0}), InvalidRequest),
            (request("b", [1] * 64), ContextLengthExceeded),
            (request("b", [1] * 60, 10, min_tokens=5), ContextLengthExceeded),
        ]:
            with pytest.raises(error):
                engine.add(bad, 0.0)
        assert len(engine.scheduler.waiting) == 1
        run(engine)

    def test_a_prompt_larger_than_the_pool_is_refused(self):
        engine = make_engine(num_blocks=8, max_model_len=64)
        with pytest.raises(CapacityExceeded, match="for 24"):
            engine.add(request("a", [1] * 40), 0.0)

    def test_the_answer_ends_at_the_context_limit(self):
        engine = make_engine(max_model_len=20)
        engine.add(request("a", [1] * 15, None), 0.0)
        tokens, finals = run(engine)
        assert len(tokens["a"][0]) == 5
        assert finals["a", 0].finish_reason == "length"

    def test_an_answer_ends_where_the_pool_does(self):
        """With a pool smaller than the longest sequence nothing waits for blocks that will never be there."""
        engine = make_engine(num_blocks=11, max_model_len=400)
        for name in "ab":
            engine.add(request(name, [ord(name)] * 8, 100), 0.0)
        tokens, finals = run(engine, steps=300)
        for name in "ab":
            assert tokens[name][0] == continuation([ord(name)] * 8, 28)
            assert finals[name, 0].finish_reason == "length"


class TestGoingOn:
    def test_behind_what_another_engine_answered_the_rest_is_the_same(self):
        """From any token on, with the length, the account and the progress of an answer that nothing interrupted."""
        prompt, count = [3, 1, 4, 1, 5, 9, 2, 6, 5], 9
        whole = continuation(prompt, count)
        for seen in range(count):
            engine = make_engine(max_tokens=4)
            if seen == 4:  # the answer's own blocks are here already
                answer(engine, "before", [*prompt, *whole[:7]], 1)
            engine.add(msgspec.structs.replace(request("a", prompt, count), answered=whole[:seen]), 1.0)
            told = []
            while engine.has_work:
                told += engine.step(lambda: 3.0)
                engine.audit()
            assert [token for output in told for token in output.token_ids] == whole[seen:]
            first = next(output for output in told if output.token_ids)
            assert bool([output for output in told if output.prefilled]) == (seen == 0)
            assert (first.usage.queue_seconds, first.usage.output_tokens) == (2.0, seen + 1)
            usage = told[-1].usage
            assert (told[-1].finish_reason, usage.output_tokens, usage.prompt_tokens) == ("length", count, len(prompt))
            assert 0 <= usage.computed_tokens <= len(prompt) and usage.cached_tokens == (9 if seen == 4 else 0)

    def test_eos_and_least_lengths_count_what_was_answered(self):
        prompt = [1, 2, 3]
        whole = continuation(prompt, 3)
        engine = make_engine(eos={whole[2]})
        engine.add(msgspec.structs.replace(request("a", prompt, 9, min_tokens=3), answered=whole[:2]), 0.0)
        tokens, finals = run(engine)
        assert tokens["a"][0] == whole[2:] and finals["a", 0].finish_reason == "stop"
        for answered, more in (([VOCAB], {}), ([1], {"n": 2})):
            with pytest.raises(InvalidRequest):
                engine.add(msgspec.structs.replace(request("b", prompt, 9, **more), answered=answered), 0.0)


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

    @pytest.mark.parametrize("stopped", [{0}, {1}, {2}, {0, 1}, {2, 0}, {0, 1, 2}])
    @pytest.mark.parametrize("steps", [0, 1], ids=["waiting", "in the middle of its prompt"])
    def test_a_sample_stopped_before_its_prompt_is_computed_never_begins(self, stopped, steps):
        """Whichever computes the prompt, the others get the tokens of their own index and seed."""
        engine, seeds = make_engine(max_tokens=4), {}
        choose = engine.runner.choose
        engine.runner.choose = lambda seq: (seeds.update({seq.index: seq.seed}), choose(seq))[1]
        engine.add(request("a", range(10), 5, n=3, seed=70), 0.0)
        step(engine, steps)
        for index in stopped:
            engine.stop("a", index)
            engine.audit()
        tokens, finals = run(engine)
        left = {0, 1, 2} - stopped
        assert {i for _, i in finals} == left
        got = {i: ids for i, ids in tokens.get("a", {}).items() if ids}
        assert got == {i: continuation(range(10), 5, index=i) for i in left}
        assert seeds == {i: 70 + i for i in left}
        engine.add(request("a", [1], 1), 0.0)  # its id is free again

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


class TestUsage:
    def test_is_told_while_the_prompt_is_computed_with_the_first_token_and_at_the_end(self):
        engine = make_engine(max_tokens=8)
        answer(engine, "before", range(9), 1)
        engine.add(request("a", range(20), 3), 0.0)
        told = [output.usage for _ in range(4) for output in step(engine)]
        assert [u and (u.cached_tokens, u.committed_tokens, u.computed_tokens, u.output_tokens) for u in told] == [
            (9, 17, 8, 0), (9, 20, 11, 1), None, (9, 22, 11, 3)
        ]  # fmt: skip

    def test_of_a_prompt_that_is_left_is_what_was_computed(self):
        engine = make_engine(max_tokens=8)
        engine.add(request("a", range(40), 3), 0.0)
        step(engine, 2)
        engine.cancel("a")
        step(engine)
        usage = engine.runner.finals["a", 0].usage
        assert (usage.prompt_tokens, usage.cached_tokens, usage.computed_tokens) == (40, 0, 16)

    def test_of_a_request_that_gave_way_is_what_it_had_computed_before(self):
        engine = make_engine(num_blocks=9)
        for name in "ab":
            engine.add(request(name, [ord(name)] * 8, 20), 0.0)
        while not engine.stats().preemptions:
            step(engine)
        waiting = engine.scheduler.waiting[0]
        length, name = len(waiting), waiting.request_id
        assert waiting.committed == 0
        engine.cancel(name)
        run(engine)
        usage = engine.runner.finals[name, 0].usage
        assert (usage.computed_tokens, usage.committed_tokens) == (8, length - 1)

    def test_of_a_request_that_only_waited_is_nothing(self):
        engine = make_engine(max_seqs=1)
        for name in "ab":
            engine.add(request(name, range(8), 4), 0.0)
        step(engine)
        engine.cancel("b")
        run(engine)
        usage = engine.runner.finals["b", 0].usage
        assert (usage.admitted, usage.cached_tokens, usage.computed_tokens) == (False, 0, 0)


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
            answer(engine, f"r{i}", range(14), 1)
            most = max(most, len(engine.cache._order._heap))
        assert 20 < most <= 2 * 20 + 64
