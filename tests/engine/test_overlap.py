"""Steps that are launched before the tokens of the one before are known change no answer, and touch nobody's blocks.

``test_engine_machine`` and ``test_token_exact`` run with and without them, too.
"""

import random
from itertools import pairwise

import pytest

from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.llm import LLM
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.overlap import PATIENCE, overlapping
from chatpager.engine.plan import Plan
from chatpager.engine.sequence import SamplingParams
from tests.engine.fakes import continuation, make_engine, request, run, step
from tests.engine.models import VOCAB


def engine_of(**sizes):
    return make_engine(overlap=True, **sizes)


def ids(outputs):
    return [(o.request_id, o.token_ids) for o in outputs if o.token_ids]


class TestPlanning:
    def test_a_token_goes_from_step_to_step_on_the_device(self):
        engine = engine_of()
        engine.add(request("a", [1, 2, 3], 6), 0.0)
        engine.add(request("b", [4, 5], 3), 0.0)
        tokens, finals = run(engine)
        assert tokens == {"a": {0: continuation([1, 2, 3], 6)}, "b": {0: continuation([4, 5], 3)}}
        assert engine.runner.fed == 5 + 2, "all but the first ones; none is computed in vain, lengths are known"
        assert len(engine.runner.steps) == 6
        assert finals["a", 0].usage.output_tokens == 6

    def test_each_step_tells_one_token_and_leaves_the_next_one_running(self):
        engine = engine_of()
        engine.add(request("a", [1, 2, 3], 3), 0.0)
        first, second, third = continuation([1, 2, 3], 3)
        assert ids(step(engine)) == [("a", [first])]
        assert engine.computes and len(engine.runner._flights) == 1
        assert ids(step(engine)) == [("a", [second])]
        assert ids(step(engine)) == [("a", [third])]
        assert not engine.has_work

    @pytest.mark.parametrize(
        "params",
        [{"repetition_penalty": 1.1}, {"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"n": 2}],
        ids=lambda params: next(iter(params)),
    )
    def test_who_needs_the_token_on_the_host_is_not_run_ahead_of_nor_are_the_others(self, params):
        """Of several samples only the first token is: they are sequences of their own from there on."""
        engine = engine_of()
        engine.add(request("plain", [7, 8], 4), 0.0)
        engine.add(request("ruled", [1, 2, 3], 4, **params), 0.0)
        step(engine)
        assert engine.runner.fed == 0
        run(engine)
        assert (engine.runner.fed > 0) is ("n" in params)

    def test_a_prompt_is_not_run_ahead_of(self):
        engine = engine_of(max_tokens=8)
        engine.add(request("stream", [1], 30), 0.0)
        step(engine)
        engine.add(request("long", [3] * 24, 1), 0.0)
        fed = engine.runner.fed
        step(engine, 4)
        assert engine.runner.fed == fed, "it waits for the step that runs, then for its own chunks"
        step(engine, 2)
        assert engine.runner.fed > fed

    def test_while_somebody_waits_for_blocks_room_is_looked_for_now_and_then(self):
        engine = engine_of(num_blocks=14, max_model_len=48, max_seqs=4)
        engine.add(request("a", [1] * 12, 33), 0.0)
        step(engine)
        engine.add(request("b", [2] * 44, 2), 0.0)
        planned, schedule = [], engine.scheduler.schedule
        engine.scheduler.schedule = lambda: planned.append(len(engine.runner.steps)) or schedule()
        tokens, _ = run(engine)
        assert tokens["b"][0] == continuation([2] * 44, 2)
        gaps = [later - before for before, later in pairwise(planned)]
        assert max(gaps[:3]) == PATIENCE + 1

    def test_no_room_for_the_next_token_is_left_to_a_step_that_may_preempt(self):
        engine = engine_of(num_blocks=9, max_model_len=28, max_seqs=3, max_tokens=32)
        for i in range(3):
            engine.add(request(str(i), [i + 1] * 4, 20), 0.0)
        tokens, _ = run(engine)
        assert engine.stats().preemptions > 0 and engine.runner.wrong == []
        assert tokens == {str(i): {0: continuation([i + 1] * 4, 20)} for i in range(3)}


class TestLeaving:
    def test_blocks_of_who_leaves_are_held_until_the_step_that_writes_them_is_over(self):
        engine = engine_of(num_blocks=9, caching=False)
        engine.add(request("a", [1] * 8, 9), 0.0)
        step(engine)
        (seq,) = engine.scheduler.running
        table = set(seq.block_table)
        assert len(table) == 3, "the step that runs writes behind the second block"
        engine.cancel("a")
        engine.audit()
        assert not engine.scheduler.running and engine.pool.available == 5
        assert not table & set(engine.pool.free)
        assert [o.finish_reason for o in step(engine)] == ["cancelled"]
        assert not engine.has_work and engine.pool.counts()["free"] == engine.pool.usable

    def test_a_stop_that_is_drawn_ends_the_answer_there(self):
        answer = continuation([1, 2, 3], 8)
        engine = engine_of(eos=frozenset({answer[3]}))
        engine.add(request("a", [1, 2, 3], 8), 0.0)
        tokens, finals = run(engine)
        assert tokens["a"][0] == answer[:4] and finals["a", 0].finish_reason == "stop"
        assert engine.runner.fed == 4, "one in vain"
        assert finals["a", 0].usage.output_tokens == 4
        assert not engine.scheduler.quarantine.tables()

    def test_what_the_one_in_vain_wrote_is_found_by_nobody(self):
        """It stands behind the tail that is kept, in the same block."""
        answer = continuation([1, 2, 3], 8)
        engine = engine_of(eos=frozenset({answer[2]}))
        engine.add(request("a", [1, 2, 3], 8, owner="s"), 0.0)
        run(engine)
        prompt = [1, 2, 3, *answer[:3], 500]
        engine.add(request("b", prompt, 2, owner="s"), 0.0)
        tokens, finals = run(engine)
        assert tokens["b"][0] == continuation(prompt, 2, eos={answer[2]})
        assert finals["b", 0].usage.cached_tokens == 5

    def test_preempted_and_admitted_again_it_gets_no_token_twice(self):
        engine = engine_of()
        engine.add(request("a", [1, 2, 3], 6), 0.0)
        step(engine)
        engine.scheduler._preempt(Plan(), engine.scheduler.running[0])
        tokens, _ = run(engine)
        assert tokens["a"][0] == continuation([1, 2, 3], 6)


class TestFailing:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_step_that_raises_is_computed_again_and_what_ran_behind_it_is_planned_anew(self, when):
        engine = engine_of()
        for name in "ab":
            engine.add(request(name, [ord(name)] * 3, 6), 0.0)
        step(engine)
        engine.runner.raise_once = when
        tokens, _ = run(engine)
        assert tokens == {name: {0: continuation([ord(name)] * 3, 6)} for name in "ab"}
        assert engine.stats().failed_steps == 1 and engine.runner.wrong == []

    @pytest.mark.parametrize("kind", ["raise_for", "nan_for"])
    def test_only_the_request_at_fault_fails(self, kind):
        engine = engine_of()
        for name in "ab":
            engine.add(request(name, [ord(name)] * 3, 6), 0.0)
        step(engine)
        getattr(engine.runner, kind).add("a")
        tokens, finals = run(engine)
        assert tokens["b"][0] == continuation([ord("b")] * 3, 6)
        assert finals["a", 0].finish_reason == "error" and tokens["a"][0] == continuation([ord("a")] * 3, 6)[:1]
        assert engine.pool.counts()["active"] == 0

    def test_interrupted_it_computes_the_same_again(self):
        engine = engine_of()
        engine.add(request("a", [1, 2, 3], 6), 0.0)
        step(engine)
        choose = engine.runner.choose

        def interrupted(seq):
            engine.runner.choose = choose
            raise KeyboardInterrupt

        engine.runner.choose = interrupted
        with pytest.raises(KeyboardInterrupt):
            engine.step(float)
        engine.audit()
        assert not engine.runner._flights
        tokens, _ = run(engine)
        assert tokens["a"][0] == continuation([1, 2, 3], 6)

    def test_closed_with_a_step_under_way_it_waits_for_it(self):
        engine = engine_of()
        engine.add(request("a", [1, 2, 3], 6), 0.0)
        step(engine)
        engine.close()
        assert not engine.runner._flights


def test_offline_no_step_is_left_under_way(tiny_model):
    llm = LLM(tiny_model("llama"), device="cpu", dtype="float32", block_size=8, num_kv_blocks=40, overlap="on")

    def answer(**params):
        wish = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, **params)
        (out,) = llm.generate([[5, 6, 7]], wish, use_tqdm=False)
        assert not llm.engine.has_work and llm.engine.pool.counts()["active"] == 0
        return out.outputs[0].token_ids

    whole = answer()
    assert answer(stop_token_ids=[whole[2]]) == whole[: whole.index(whole[2]) + 1]


def test_who_overlaps():
    engine = engine_of()
    parts = engine.scheduler, engine.runner, engine.steps.attempts
    assert overlapping("off", *parts) is None and overlapping("auto", *parts) is not None
    engine.runner.is_apart = False
    assert overlapping("auto", *parts) is None and overlapping("on", *parts) is not None
    plain = make_engine()
    assert overlapping("on", plain.scheduler, plain.runner, plain.steps.attempts) is None


class Workload:
    """Requests of all kinds, cancelled, stopped and preempted in the middle; the same under the same seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        heads = [self._ids(20), self._ids(9)]
        self.requests, self.logprobs = [], []
        for i in range(9):
            prompt = [*self.rng.choice([[], *heads]), *self._ids(self.rng.randint(1, 25))]
            self.requests.append(
                AddRequest(
                    request_id=str(i), prompt_token_ids=prompt, params=self._params(i), owner=self.rng.choice("xyz")
                )
            )

    def _ids(self, count):
        return [self.rng.randrange(2, VOCAB) for _ in range(count)]

    def _params(self, i):
        rng = self.rng
        drawn = {"temperature": rng.choice([0.0, 0.7, 1.3]), "top_p": rng.choice([1.0, 0.8]), "seed": i}
        odd = [
            {}, {}, {"logprobs": 2}, {"min_tokens": 4} if i % 2 else {}, {"logit_bias": {5: 3.0}}, {"n": 2},
            {"stop_token_ids": self._ids(60)}, {"repetition_penalty": 1.2},
        ]  # fmt: skip
        return SamplingParams(max_tokens=rng.randint(5 if i % 2 else 1, 14), **drawn, **rng.choice(odd))

    def run(self, engine):
        """What each sample was told, until it was given up by somebody who had read so many tokens of it."""
        told = {}
        given_up = {str(i): self.rng.randint(1, 5) for i in self.rng.sample(range(9), 3)}
        for i, asked in enumerate(self.requests):
            engine.add(asked, 0.0)
            for _ in range(i % 4):
                self._step(engine, told, given_up)
        while engine.has_work:
            self._step(engine, told, given_up)
        return {key: said for key, said in told.items() if key[0] not in given_up or key[1] == 0}

    def _step(self, engine, told, given_up):
        for output in engine.step(float):
            said = told.setdefault((output.request_id, output.index), [])
            said += output.token_ids
            self.logprobs += [lp.chosen.logprob for lp in output.logprobs or ()]
            if output.finish_reason and output.request_id not in given_up:
                said.append(output.finish_reason)
        engine.audit()
        for name, most in given_up.items():
            if len(told.get((name, 0), [])) >= most:
                (engine.cancel if most % 2 else engine.stop)(name)
                told[name, 0] = told[name, 0][:most]


@pytest.mark.no_cover
@pytest.mark.parametrize("blocks", [14, 60])
def test_random_workloads_get_the_same_tokens(tiny_model, blocks):
    """Also where sequences are preempted and swapped. What is told of probabilities may differ in its last bits, as
    batches do."""
    answers, chances, fed = {}, {}, 0
    for overlap in ("off", "on"):
        config = EngineConfig(
            model=str(tiny_model("llama")), dtype="float32", device="cpu", block_size=8, num_kv_blocks=blocks,
            max_model_len=80, max_num_seqs=4, max_num_batched_tokens=24, swap_space=0.001, overlap=overlap,
        )  # fmt: skip
        runner = ModelRunner(config)
        build = runner._builder.build

        def counted(plan, places=None, build=build):
            nonlocal fed
            fed += sum(row.is_fed for row in plan.rows)
            return build(plan, places)

        runner._builder.build = counted
        for seed in range(8):
            work, engine = Workload(seed), Engine(config, runner)
            told = work.run(engine)
            engine.close()
            assert answers.setdefault(seed, told) == told, seed
            assert chances.setdefault(seed, sorted(work.logprobs)) == pytest.approx(sorted(work.logprobs), abs=1e-3)
    assert fed > 100
