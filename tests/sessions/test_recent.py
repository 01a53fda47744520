"""Turns that have just ended: for so long, and so many."""

from types import SimpleNamespace

from chatpager.sessions.recent import Recent


def turn(name, size=10, session=None):
    request = SimpleNamespace(conversation=session and ("t", session))
    stream = SimpleNamespace(events=[None] * size)
    return SimpleNamespace(id=name, stream=stream, request=request, forget_prompt=lambda: None)


def test_a_turn_is_kept_for_so_long():
    recent = Recent(seconds=5.0, size=100)
    a, b = turn("a"), turn("b")
    recent.put(a, 0.0)
    recent.put(b, 3.0)
    assert (recent.get("a", 4.9), recent.get("b", 4.9)) == (a, b)
    assert (recent.get("a", 5.0), recent.get("b", 5.0)) == (None, b)
    assert recent.get("b", 9.0) is None


def test_the_oldest_make_room():
    recent = Recent(seconds=5.0, size=25)
    for name in "abc":
        recent.put(turn(name), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "abc"] == [False, True, True]
    recent.put(turn("d", size=26), 0.0)
    assert [bool(recent.get(name, 0.0)) for name in "bcd"] == [False] * 3
    recent.put(turn("e", size=25), 0.0)
    assert recent.get("e", 0.0), "all the room is there again"


def test_what_is_forgotten_leaves_its_room():
    recent = Recent(seconds=5.0, size=20)
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
