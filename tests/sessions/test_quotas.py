"""What a tenant may ask for in a minute: never more than it may, all of it again a minute later, and nobody else's."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import RateLimited
from chatpager.sessions.quotas import ASKED, Allowed, Asked, Quotas, Rate


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def turn(name, prompt, max_tokens, tenant="ann"):
    params = SimpleNamespace(max_tokens=max_tokens)
    return SimpleNamespace(
        id=name,
        prompt=[0] * prompt,
        token_ids=[],
        receipt=object(),
        request=SimpleNamespace(tenant=tenant, params=params),
    )


@pytest.fixture
def clock():
    return Clock()


@given(st.integers(1, 600), st.lists(st.floats(0, 30), max_size=60))
def test_in_no_minute_more_than_twice_are_asked_and_of_those_that_waited_none_is_refused(per_minute, pauses):
    """What was saved, and what came back meanwhile."""
    now, rate, taken = 0.0, Rate(per_minute, 0.0), []
    for pause in pauses:
        now += pause
        now += rate.wait(now, 1)
        assert rate.wait(now, 1) < 1e-6
        rate.take(1, now)
        taken.append(now)
    for i, first in enumerate(taken):
        for count, last in enumerate(taken[i:], 1):
            assert count <= per_minute + per_minute * (last - first) / 60 + 1e-6


def test_requests_are_refused_with_the_time_to_come_again(clock):
    quotas = Quotas(Allowed(requests=2), clock)
    quotas.request("ann")
    quotas.request("ann")
    for _ in range(3):
        with pytest.raises(RateLimited, match="this tenant may ask 2 times in a minute; try again in 30 s") as refused:
            quotas.request("ann")
        assert refused.value.retry_after == pytest.approx(30.0), "to be refused costs nothing"
    quotas.request("bob")
    clock.now += 30.0
    quotas.request("ann")


def test_what_comes_on_a_socket_is_a_request_each_time(clock):
    quotas = Quotas(Allowed(requests=1), clock)
    quotas.ask("ann")
    before = ASKED.set(Asked(counted=False))
    try:
        quotas.ask("ann")
        with pytest.raises(RateLimited):
            quotas.ask("ann")
    finally:
        ASKED.reset(before)


def test_turns_that_begin_at_once_overstep_by_one_of_them_at_the_most(clock):
    quotas = Quotas(Allowed(tokens=100), clock)
    for number in range(200):
        if number < 3:
            quotas.reserve([turn(str(number), 30, 19)], 1000)
        else:
            with pytest.raises(RateLimited, match="may use 100 tokens in a minute, prompts and answers; ask for shor"):
                quotas.reserve([turn(str(number), 30, 19)], 1000)
    with pytest.raises(RateLimited):
        quotas.ask("ann")
    quotas.reserve([turn("bob's", 30, 20, "bob")], 1000)


def test_what_was_not_said_is_given_back_once_and_the_prompt_is_not(clock):
    quotas = Quotas(Allowed(tokens=100), clock)
    one = turn("one", 30, None)
    quotas.reserve([one], 1000)
    quotas.reserve([one], 1000)
    one.token_ids = [0] * 20
    for _ in range(2):
        quotas.settle(one)
    left = turn("left", 49, 1)
    quotas.reserve([left], 1000)
    with pytest.raises(RateLimited) as refused:
        quotas.ask("ann")
    assert refused.value.retry_after == pytest.approx(0.6), "nothing is left, and one comes back in that time"
    quotas.release("left")
    quotas.release("left")
    quotas.reserve([turn("again", 49, 1)], 1000)


def test_of_a_turn_of_which_nothing_was_computed_the_prompt_is_given_back_too(clock):
    quotas = Quotas(Allowed(tokens=100), clock)
    one = turn("one", 90, 10)
    quotas.reserve([one], 1000)
    one.receipt = None
    quotas.settle(one)
    assert quotas.account("tenant", "ann").tokens.left(clock.now) == 100


def test_nobody_is_told_to_wait_for_what_running_turns_may_give_back_in_a_moment(clock):
    quotas = Quotas(Allowed(tokens=100), clock)
    quotas.reserve([turn("one", 30, None)], 100_000)
    with pytest.raises(RateLimited, match="try again in 60 s") as refused:
        quotas.ask("ann")
    assert refused.value.retry_after == 60.0


def test_choices_have_one_prompt(clock):
    quotas = Quotas(Allowed(tokens=100), clock)
    quotas.reserve([turn("a", 50, 20), turn("b", 50, 20)], 1000)
    quotas.reserve([turn("c", 9, 1)], 1000)
    with pytest.raises(RateLimited):
        quotas.ask("ann")


def test_without_limits_nothing_is_counted():
    quotas = Quotas()
    for _ in range(3):
        quotas.request("ann")
        quotas.reserve([turn("a", 50, 20)], 1000)
    assert not quotas._accounts and not quotas._taken
