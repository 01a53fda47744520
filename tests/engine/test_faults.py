"""A step that fails, and content that must not be found again."""

import pytest

from tests.engine.fakes import answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG, flood


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

    def test_poison_that_was_left_unnoticed_goes_with_the_first_who_fails_on_it(self):
        """Its author was cancelled before anyone looked at its logits, so whoever reads it is the first to know."""
        engine = make_engine(num_blocks=60, max_tokens=8)
        engine.add(request("author", range(30), 4), 0.0)
        step(engine, 2)
        engine.cancel("author")
        engine.runner.nan_for.add("reader")
        engine.add(request("reader", range(14), 4), 0.0)
        _, finals = run(engine)
        assert finals["reader", 0].usage.cached_tokens == 13, "of the last block it is a copy"
        assert answer(engine, "again", range(14), 1).usage.cached_tokens == 0

    def test_a_reader_gives_poison_no_new_name(self):
        engine = make_engine(num_blocks=60, max_tokens=8)
        engine.runner.nan_for |= {"author", "reader"}
        engine.add(request("author", range(25), 4), 0.0)
        step(engine, 3)
        engine.add(request("reader", [*range(24), *range(50, 70)], 4), 0.0)
        _, finals = run(engine)
        assert finals["reader", 0].usage.cached_tokens == 24
        assert {finals[name, 0].error_code for name in ("author", "reader")} == {"engine_numeric_error"}
        assert engine.pool.index == {}

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


def test_what_went_wrong_in_a_step_is_logged_and_counted(caplog):
    engine = make_engine()
    engine.add(request("a", [1] * 5, 3), 0.0)
    engine.add(request("b", [2] * 5, 3), 0.0)
    engine.runner.raise_once = "after"
    run(engine)
    (record,) = caplog.records
    assert record.getMessage() == "a step of 2 sequences failed"
    assert "Broken: once, after writing" in caplog.text
    assert engine.stats().failed_steps == 1


class TestHalfEndedRequests:
    def test_cancelling_ends_the_samples_that_are_left(self):
        engine = make_engine()
        engine.add(request("a", [1], 10, n=2), 0.0)
        step(engine)
        engine.stop("a", 0)
        engine.cancel("a")
        _, finals = run(engine)
        assert {k: f.finish_reason for k, f in finals.items()} == {("a", 1): "cancelled"}


class TestAStepThatIsInterrupted:
    @pytest.mark.parametrize("when", ["before it computed", "after it computed", "at its end"])
    @pytest.mark.parametrize("steps", range(6))
    def test_holds_nothing_and_is_taken_again(self, steps, when):
        """Ctrl+C in the middle of a step: of the prompt, of one that copies a shared block, of one that does not."""
        engine = make_engine(max_tokens=8, caching=False)
        engine.add(request("a", range(10), 6, n=3), 0.0)
        step(engine, steps)
        place, name = (engine.scheduler, "commit") if when == "at its end" else (engine.runner, "run")
        undisturbed = getattr(place, name)

        def interrupted(work):
            setattr(place, name, undisturbed)
            if when == "after it computed":
                undisturbed(work)
            raise KeyboardInterrupt

        setattr(place, name, interrupted)
        engine.add(request("gone", [1]), 0.0)
        engine.cancel("gone")
        with pytest.raises(KeyboardInterrupt):
            engine.step(float)
        engine.audit()
        tokens, finals = run(engine)
        assert tokens["a"] == {i: continuation(range(10), 6, index=i) for i in range(3)}
        assert finals["gone", 0].finish_reason == "cancelled", "what was to be told is told by the next step"
        assert engine.pool.counts()["active"] == 0

    @pytest.mark.parametrize("goes_on", [True, False])
    def test_while_it_is_being_planned_copies_nothing(self, goes_on):
        """The second prompt's blocks are being brought back when Ctrl+C comes; the first one's row copies a tail."""
        engine = make_engine(num_blocks=40, host_blocks=64, max_tokens=64)
        answer(engine, "first", LONG, owner="s")
        flood(engine, 8)
        answer(engine, "before", range(1, 11), 4, owner="t")
        warm = [*range(1, 11), 700, 701]
        undisturbed = engine.runner.write_blocks

        def interrupted(ids, contents):
            engine.runner.write_blocks = undisturbed
            raise KeyboardInterrupt

        engine.runner.write_blocks = interrupted
        engine.add(request("warm", warm, 4, owner="t"), 0.0)
        engine.add(request("again", LONG, owner="s"), 0.0)
        with pytest.raises(KeyboardInterrupt):
            engine.step(float)
        engine.audit()
        if not goes_on:
            engine.cancel("warm")
            engine.cancel("again")
        tokens, _ = run(engine)
        assert not goes_on or tokens["warm"][0] == continuation(warm, 4)
        assert answer(engine, "later", warm, 4, owner="t").usage.cached_tokens >= 10
