"""Which head a turn moves, and which one goes with a deleted response."""

import pytest

from chatpager.engine.sampling_params import SamplingParams
from chatpager.sessions.heads import Heads, owner_of
from chatpager.sessions.turn_request import TurnRequest


def asked(name, **more):
    return TurnRequest(
        id=name, tenant="t", kind="response", model="m", messages=[], params=SamplingParams(), **more
    )  # fmt: skip


@pytest.fixture
def heads():
    return Heads()


def turn(heads, name, parent, tip):
    """A turn that goes on from ``parent`` and ends with ``tip``, or without; its head."""
    request = asked(name)
    owner = heads.of(request, name, parent)
    heads.moved(request, owner, tip) if tip else heads.stayed(request, owner, parent)
    return owner


FIRST = owner_of("t", "one")


def test_a_turn_takes_over_the_head_of_the_one_before(heads):
    assert turn(heads, "one", None, b"1") == turn(heads, "two", b"1", b"2") == FIRST
    assert turn(heads, "other", b"1", b"3") == owner_of("t", "other")


def test_the_head_of_a_conversation_goes_with_its_end(heads):
    turn(heads, "one", None, b"1")
    turn(heads, "two", b"1", b"2")
    assert heads.let_go("t", "two", b"2") == FIRST
    assert turn(heads, "three", b"2", b"3") == owner_of("t", "three")


def test_of_what_an_earlier_server_knew_the_own_head_goes(heads):
    assert heads.let_go("t", "one", b"1") == FIRST


def test_a_turn_that_brought_nothing_leaves_the_head_where_it_stood(heads):
    turn(heads, "one", None, b"1")
    assert turn(heads, "failed", b"1", None) == FIRST
    assert turn(heads, "two", b"1", b"2") == FIRST


def test_unless_another_one_stands_there_by_now(heads):
    turn(heads, "one", None, b"1")
    owner = heads.of(asked("slow"), "slow", b"1")
    other = turn(heads, "same", None, b"1")
    heads.stayed(asked("slow"), owner, b"1")
    assert turn(heads, "two", b"1", b"2") == other


def test_of_two_that_ended_with_the_same_the_later_one_s_stays(heads):
    request = asked("same")
    assert heads.moved(asked("one"), FIRST, b"1") == ""
    assert heads.moved(request, heads.of(request, "same", None), b"1") == FIRST
    assert heads.let_go("t", "same", b"1") == owner_of("t", "same")


def test_of_many_the_one_moved_longest_ago_is_forgotten():
    heads = Heads(entries=2)
    for name in ("one", "two", "three"):
        turn(heads, name, None, name.encode())
    assert turn(heads, "again", b"one", b"x") == owner_of("t", "again")
    assert turn(heads, "more", b"three", b"y") == owner_of("t", "three")


@pytest.mark.parametrize("more", [{"stored": False}, {"session_id": "c"}])
def test_what_has_another_name_or_none_stands_nowhere(heads, more):
    request = asked("one", **more)
    owner = heads.of(request, "one", None)
    assert owner == ("" if "stored" in more else owner_of("t", "c"))
    heads.moved(request, owner, b"1")
    heads.stayed(request, owner, b"1")
    assert turn(heads, "two", b"1", b"2") == owner_of("t", "two")
