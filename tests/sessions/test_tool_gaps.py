"""How long tools are waited for: what is learned of each, and for how long that is believed."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.sessions.tool_gaps import AT_LEAST, AT_MOST, UNKNOWN_SECONDS, ToolGaps


def after(*seconds, tool="search", tenant="t"):
    gaps = ToolGaps()
    for gap in seconds:
        gaps.observe(tenant, tool, gap)
    return gaps


def test_of_an_unknown_tool_nothing_is_claimed():
    assert ToolGaps().length("t", ["search"]) == UNKNOWN_SECONDS
    assert after(20, tenant="other").length("t", ["search"]) == UNKNOWN_SECONDS, "tenants do not teach each other"
    assert after(20, tool="shell").length("t", ["search"]) == UNKNOWN_SECONDS


def test_one_gap_is_believed_with_caution():
    assert after(20).length("t", ["search"]) == pytest.approx(20 * math.exp(0.8416))


def test_four_gaps_of_five_are_shorter_than_what_is_learned():
    draw = random.Random(1)
    seen = [draw.lognormvariate(3.0, 0.7) for _ in range(2000)]
    learned = after(*seen).length("t", ["search"])
    assert 0.72 < sum(gap < learned for gap in seen) / len(seen) < 0.88


def test_a_tool_that_always_takes_as_long_is_waited_for_as_long():
    assert after(*[30] * 40).length("t", ["search"]) == pytest.approx(30, rel=0.2)


def test_a_tool_that_becomes_slow_is_believed_after_some_calls():
    gaps = after(*[10] * 1000)
    before = gaps.length("t", ["search"])
    for _ in range(100):
        gaps.observe("t", "search", 200)
    assert before < 12 and gaps.length("t", ["search"]) > 150


@given(st.lists(st.floats(-1e9, 1e12), max_size=20))
def test_whatever_was_seen_the_length_is_one_that_a_lease_can_have(seen):
    assert AT_LEAST <= after(*seen).length("t", ["search"]) <= AT_MOST


def test_the_slowest_of_several_decides():
    gaps = after(*[100] * 20)
    for _ in range(20):
        gaps.observe("t", "clock", 6)
    assert gaps.length("t", ["clock", "search"]) == gaps.length("t", ["search"]) > gaps.length("t", ["clock"])
    assert gaps.slowest("t", ["clock", "search"]) == "search"


def test_a_gap_is_from_the_call_to_the_first_that_brings_its_result():
    gaps, told = ToolGaps(), after(20)
    gaps.called("t", "call_1", "search", 1000.0)
    gaps.returned("other", "call_1", 1001.0)
    gaps.returned("t", "call_2", 1001.0)
    gaps.returned("t", "call_1", 1020.0)
    gaps.returned("t", "call_1", 9000.0)
    assert gaps.length("t", ["search"]) == told.length("t", ["search"])


def test_what_was_heard_of_longest_ago_is_forgotten():
    gaps = ToolGaps(tools=2, waiting=2)
    for tool in ("a", "b", "a", "c"):
        gaps.observe("t", tool, 100)
    assert [gaps.length("t", [tool]) != UNKNOWN_SECONDS for tool in "abc"] == [True, False, True]
    for call in ("1", "2", "3"):
        gaps.called("t", call, "d", 0.0)
    gaps.returned("t", "1", 100.0)
    assert gaps.length("t", ["d"]) == UNKNOWN_SECONDS
    gaps.returned("t", "2", 100.0)
    assert gaps.length("t", ["d"]) != UNKNOWN_SECONDS
