"""A step with prompts takes about as long as it may, whatever a token costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.lanes import Lanes
from chatpager.engine.pace import ALONE, FIRST, LEAST, Pace
from tests.engine.fakes import make_engine, request

MOST = 8192


def settled(pace, seconds_a_token, *, decoding=True, besides=0.0, steps=40):
    """Tokens of a step that is always full, once the pace was found."""
    for _ in range(steps):
        room = pace.room(decoding)
        pace.took(decoding, room, besides + room * seconds_a_token, full=True)
    return pace.room(decoding)


@given(st.floats(1e-6, 3e-2), st.floats(0.0, 0.5))
def test_a_step_takes_its_time_or_is_as_large_or_as_small_as_it_may(seconds_a_token, besides):
    room = settled(Pace(1.0, MOST), seconds_a_token, besides=besides)
    took = besides + room * seconds_a_token
    assert room in (LEAST, MOST) or took == pytest.approx(1.0, rel=0.02)
    assert room > LEAST or took >= 0.95
    assert room < MOST or took <= 1.05


def test_where_nobody_decodes_a_step_may_take_longer():
    assert settled(Pace(1.0, MOST), 0.004, decoding=False) == pytest.approx(ALONE * 250, rel=0.02)
    assert settled(Pace(1.0, MOST), 0.004, decoding=True) == pytest.approx(250, rel=0.02)


def test_a_step_that_was_not_full_and_quick_says_nothing():
    pace = Pace(1.0, MOST)
    pace.took(True, FIRST - 1, 0.001, full=False)
    pace.took(True, 0, 50.0, full=True)
    assert pace.room(True) == FIRST
    pace.took(True, 20, 50.0, full=False)
    assert pace.room(True) == FIRST // 2, "a slow one does, and one may be slow by chance"


def test_a_clock_that_stands_still_does_no_harm():
    pace = Pace(1.0, MOST)
    pace.took(True, FIRST, 0.0, full=True)
    assert pace.room(True) == 2 * FIRST


@pytest.mark.parametrize("most", [1, 100, LEAST, FIRST])
def test_a_step_never_holds_more_than_it_may(most):
    assert settled(Pace(1.0, most), 1e-6) == most
    assert settled(Pace(1.0, most), 10.0) == min(most, LEAST)


def test_without_a_bound_a_step_is_as_large_as_it_may_be():
    assert settled(Pace(0.0, MOST), 10.0) == MOST


class Timed:
    """Time that passes while the engine computes: so many seconds for a token of a prompt, and for a step."""

    def __init__(self, engine, each, step):
        self.now, self._each, self._step = 0.0, each, step
        self._run, engine.runner.run = engine.runner.run, self._take

    def _take(self, plan):
        self.now += self._step + self._each * plan.prompt_tokens
        return self._run(plan)


def longest_wait(step_seconds):
    """Of a stream beside which a prompt of 12,000 tokens comes, 3 ms each."""
    engine = make_engine(num_blocks=4000, max_model_len=16000, max_tokens=MOST, step_seconds=step_seconds)
    time = Timed(engine, 0.003, 0.03)
    engine.add(request("stream", [1], 200), 0.0)
    engine.step(lambda: time.now)
    engine.add(request("long", [2] * 12_000, 1), 0.0)
    told, waits = time.now, []
    while "long" in engine._requests:
        outputs = engine.step(lambda: time.now)
        if any(output.request_id == "stream" and output.token_ids for output in outputs):
            waits.append(time.now - told)
            told = time.now
    return max(waits), time.now


def test_a_long_prompt_holds_nobody_up_for_longer_than_a_step_may_take():
    waited, took = longest_wait(1.0)
    assert waited < 1.6, "the first step is a guess"
    unbounded, at_once = longest_wait(0.0)
    assert unbounded > 20
    assert took < 1.1 * at_once, "and takes little longer for it"


@pytest.mark.parametrize("tokens", [40, 100, 300, 600])
def test_a_shorter_prompt_overtakes_one_that_fills_several_such_steps(tokens):
    engine = make_engine(num_blocks=4000, max_model_len=16000, max_tokens=MOST, step_seconds=1.0)
    time = Timed(engine, 0.01, 0.03)
    engine.add(request("stream", [1], 400), 0.0)
    engine.add(request("long", [2] * 6_000, 1), 0.0)
    for _ in range(8):
        engine.step(lambda: time.now)
    engine.add(request("short", [3] * tokens, 1), time.now)
    asked = time.now
    while "short" in engine._requests:
        engine.step(lambda: time.now)
    assert "long" in engine._requests
    assert time.now - asked < 1.5 * 2 * 0.01 * tokens + 3.0, "half of each step is its own"


@pytest.mark.parametrize(("remaining", "cut"), [(100, False), (128, False), (129, True), (300, True)])
def test_a_prompt_that_got_only_its_lane_s_share_was_cut(remaining, cut):
    lanes = Lanes(256, threshold=64, share=0.5)
    lanes.divide(long_runs=True, short_comes=True)
    lanes.take(remaining, lanes.chunk(remaining))
    assert lanes.cut is cut


def test_a_step_that_cut_a_prompt_off_says_so():
    engine = make_engine(num_blocks=4000, max_model_len=16000, max_tokens=MOST, step_seconds=1.0)
    engine.add(request("long", [2] * (FIRST + 2), 1), 0.0)
    assert [(plan.cut, plan.prompt_tokens) for plan in plans(engine)] == [(True, FIRST), (False, 2)]


def plans(engine):
    """Of all steps until nothing is left."""
    seen, run = [], engine.runner.run
    engine.runner.run = lambda plan: (seen.append(plan), run(plan))[1]
    while engine._requests:
        engine.step(lambda: 0.0)
    return seen
