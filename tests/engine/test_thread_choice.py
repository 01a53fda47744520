"""Steps of made-up times: which number of threads stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from chatpager.engine import thread_choice
from chatpager.engine.thread_choice import EVERY, SELDOM, ThreadChoice, candidates, spin_briefly, without_our_policy


def _serve(choice: ThreadChoice, steps: int, tokens: int, hundredths: Callable[[int], float]) -> Counter[int]:
    """``hundredths`` of a second that a step takes with so many threads."""
    used: Counter[int] = Counter()
    for _ in range(steps):
        threads = choice.threads(tokens)
        used[threads] += 1
        choice.took(tokens, hundredths(threads) / 100)
    return used


def test_the_first_option_stands_while_it_is_fastest() -> None:
    used = _serve(ThreadChoice([2, 1]), 100 * EVERY, 8, {2: 1.0, 1: 1.7}.__getitem__)
    assert 0.99 < used[2] / used.total() < 1, used  # less and less is tried


def test_steps_that_take_another_time_than_they_did_are_tried_again_soon() -> None:
    for other in (1.5, 0.5):
        choice = ThreadChoice([2, 1])
        _serve(choice, 30 * SELDOM, 8, {2: 1.0, 1: 1.7}.__getitem__)
        _serve(choice, 2 * EVERY, 8, {2: other, 1: other / 2}.__getitem__)
        assert choice.threads(8) == 1


def test_another_that_is_faster_is_found_and_kept_until_it_no_longer_is() -> None:
    choice = ThreadChoice([4, 3, 2])
    _serve(choice, 3 * EVERY, 8, {4: 3.0, 3: 2.0, 2: 1.0}.__getitem__)
    used = _serve(choice, 10 * EVERY, 8, {4: 3.0, 3: 2.0, 2: 1.0}.__getitem__)
    assert used[2] / used.total() > 0.94, used
    _serve(choice, 3 * EVERY, 8, {4: 1.0, 3: 1.5, 2: 1.5}.__getitem__)
    used = _serve(choice, 10 * EVERY, 8, {4: 1.0, 3: 1.5, 2: 1.5}.__getitem__)
    assert used[4] / used.total() > 0.94, used


def test_steps_of_another_size_have_a_choice_of_their_own() -> None:
    choice = ThreadChoice([2, 1])
    for _ in range(3 * EVERY):
        _serve(choice, 1, 4, {2: 2.0, 1: 1.0}.__getitem__)
        _serve(choice, 1, 512, {2: 1.0, 1: 2.0}.__getitem__)
    assert (choice.threads(4), choice.threads(512)) == (1, 2)


def test_times_that_grow_with_the_context_do_not_speak_against_the_present_choice() -> None:
    """Every step takes a little longer than the one before, whatever computes it."""
    took = [1.0]

    def slower(threads: int) -> float:
        took[0] *= 1.002
        return took[0] * {2: 1.0, 1: 1.1}[threads]

    used = _serve(ThreadChoice([2, 1]), 40 * EVERY, 8, slower)
    assert used[2] / used.total() > 0.94, used


def test_one_slow_step_changes_nothing() -> None:
    choice, slow = ThreadChoice([2, 1]), iter([9.0, 9.0])
    _serve(choice, EVERY - 2, 8, {2: 1.0, 1: 1.2}.__getitem__)
    _serve(choice, 2, 8, lambda threads: next(slow))
    _serve(choice, 4, 8, {2: 1.0, 1: 1.2}.__getitem__)
    assert choice.threads(8) == 2


def test_a_single_option_is_never_tried_against_anything() -> None:
    assert _serve(ThreadChoice([3]), 5 * EVERY, 8, lambda threads: 1.0) == {3: 5 * EVERY}


def test_nobody_waits_for_a_trial_of_a_step_that_takes_long() -> None:
    assert _serve(ThreadChoice([2, 1]), 5 * EVERY, 1024, {2: 100.0, 1: 50.0}.__getitem__) == {2: 5 * EVERY}


def test_steps_that_have_become_long_try_the_first_option_again() -> None:
    choice = ThreadChoice([4, 3, 2])
    _serve(choice, 5 * EVERY, 8, {4: 20.0, 3: 15.0, 2: 10.0}.__getitem__)
    assert choice.threads(8) == 2
    used = _serve(choice, 3 * EVERY, 8, {4: 30.0, 3: 45.0, 2: 60.0}.__getitem__)
    assert choice.threads(8) == 4 and not used[3]


@pytest.mark.parametrize(
    ("cores", "options"), [(1, (1,)), (2, (2, 1)), (3, (3, 2, 1)), (4, (4, 3, 2)), (16, (16, 15, 8))]
)
def test_candidates(cores: int, options: tuple[int, ...]) -> None:
    assert candidates(cores) == options


def test_whoever_runs_the_server_may_choose_how_threads_wait() -> None:
    for given in ({"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environ = dict(given)
        spin_briefly(environ)
        assert environ == given
    environ = {}
    spin_briefly(environ)
    assert environ == {"GOMP_SPINCOUNT": "10000"}


def test_programs_that_are_not_ours_wait_as_they_would_without_us(monkeypatch) -> None:
    monkeypatch.setattr(thread_choice, "_set_here", [])
    his = {"GOMP_SPINCOUNT": "10000", "HOME": "/"}
    assert without_our_policy(his) == his
    ours = {"HOME": "/"}
    spin_briefly(ours)
    assert without_our_policy(ours) == {"HOME": "/"}
