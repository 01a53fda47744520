"""Turns that have just ended: for so long, and so many."""

import tracemalloc
from types import SimpleNamespace

from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.engine.token_spelling import Spelled
from chatpager.sessions.answers import Delta
from chatpager.sessions.logprobs import spelled
from chatpager.sessions.recent import EVENT_BYTES, Recent, size_of


def turn(name, size=10, session=None):
    request = SimpleNamespace(conversation=session and ("t", session))
    stream = SimpleNamespace(events=[None] * size)
    return SimpleNamespace(id=name, stream=stream, request=request, forget_prompt=lambda: None)


def test_a_turn_is_kept_for_so_long():
    recent = Recent(seconds=5.0, size=100 * EVENT_BYTES)
    a, b = turn("a"), turn("b")
    recent.put(a, 0.0)
    recent.put(b, 3.0)
    assert (recent.get("a", 4.9), recent.get("b", 4.9)) == (a, b)
    assert (recent.get("a", 5.0), recent.get("b", 5.0)) == (None, b)
    assert recent.get("b", 9.0) is None


def test_the_oldest_make_room():
    recent = Recent(seconds=5.0, size=25 * EVENT_BYTES)
    for name in "abc":
        recent.put(turn(name), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "abc"] == [False, True, True]
    recent.put(turn("d", size=26), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "bcd"] == [False] * 3
    recent.put(turn("e", size=25), 0.0)
    assert recent.get("e", 0.0), "all the room is there again"


def test_what_is_forgotten_leaves_its_room():
    recent = Recent(seconds=5.0, size=20 * EVENT_BYTES)
    recent.put(turn("a", session="s"), 0.0)
    recent.put(turn("b"), 0.0)
    recent.forget("x")
    recent.forget_session("t", "other")
    recent.forget_session("other", "s")
    assert recent.get("a", 0.0)
    recent.forget_session("t", "s")
    assert not recent.get("a", 0.0)
    recent.put(turn("c"), 0.0)
    assert recent.get("b", 0.0) and recent.get("c", 0.0)


def test_an_event_is_charged_what_it_weighs():
    sampled = SampledLogprobs(TokenLogprob(1, -1.5), [TokenLogprob(i, -1.5) for i in range(20)])

    def event():
        return Delta("a" * 5, (spelled(sampled, lambda i: Spelled(f"tok{i}", b"token")),))

    tracemalloc.start()
    events = [event() for _ in range(200)]
    weighs = tracemalloc.get_traced_memory()[0] / len(events)
    tracemalloc.stop()
    assert 0.6 < weighs / size_of(events[0]) < 1.5
    assert size_of(events[0]) > 20 * size_of(Delta("a" * 5))
