"""Turns that have just ended: for so long, and so many."""

import gc
import tracemalloc
from types import SimpleNamespace

from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.engine.token_spelling import Spelled
from chatpager.sessions.answers import Delta
from chatpager.sessions.logprobs import spelled
from chatpager.sessions.recent import EVENT_BYTES, TURN_BYTES, Recent, size_of, size_of_turn
from chatpager.sessions.stream import Prefilled, Started
from tests.sessions.test_turn import make, output

ONE = TURN_BYTES + 10 * EVENT_BYTES
"""Bytes of a turn of ten events."""


def turn(name, size=10, session=None):
    request = SimpleNamespace(conversation=session and ("t", session))
    stream = SimpleNamespace(events=[None] * size)
    return SimpleNamespace(id=name, stream=stream, request=request, forget_prompt=lambda: None)


def test_a_turn_is_kept_for_so_long():
    recent = Recent(seconds=5.0, size=10 * ONE)
    a, b = turn("a"), turn("b")
    recent.put(a, 0.0)
    recent.put(b, 3.0)
    assert (recent.get("a", 4.9), recent.get("b", 4.9)) == (a, b)
    assert (recent.get("a", 5.0), recent.get("b", 5.0)) == (None, b)
    assert recent.get("b", 9.0) is None


def test_the_oldest_make_room():
    most = (2 * ONE - TURN_BYTES) // EVENT_BYTES + 5
    recent = Recent(seconds=5.0, size=TURN_BYTES + most * EVENT_BYTES)
    for name in "abc":
        recent.put(turn(name), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "abc"] == [False, True, True]
    recent.put(turn("d", size=most + 1), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "bcd"] == [False] * 3
    recent.put(turn("e", size=most), 0.0)
    assert recent.get("e", 0.0), "all the room is there again"


def test_what_is_forgotten_leaves_its_room():
    recent = Recent(seconds=5.0, size=2 * ONE)
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
    assert size_of(events[0]) > 10 * size_of(Delta("a" * 5))
    assert not any(map(gc.is_tracked, events[0].logprobs[0].top_logprobs)), "there are very many"
    assert len({id(top.bytes) for event in events for top in event.logprobs[0].top_logprobs}) == 1


def test_a_turn_is_charged_what_it_weighs(tokenizer):
    ids = tokenizer.encode_plain("one two")

    def kept(recent, number):
        turn = make(tokenizer)
        turn.id = f"resp_{number}"
        turn.stream.extend([Started(turn.id, 1), Prefilled(1, 3, 0)], 1.0)
        for one in ids:
            turn.stream.extend(turn.take(output(one), 1.0)[0], 1.0)
        recent.put(turn, 1.0)

    recent, count = Recent(seconds=5.0, size=1 << 30), 100
    kept(recent, -1)
    tracemalloc.start()
    for number in range(count):
        kept(recent, number)
    weighs = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    charged = size_of_turn(recent.get("resp_0", 1.0))
    assert 0.4 < weighs / charged < 1.0, "its request is larger than the one here"
