"""Pins that are renewed until their time has come: what the engine is sent, and when."""

import math

from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.heads import LeaseEvent, Strength
from chatpager.engine.messages import LeaseRequest
from chatpager.sessions.engine_frames import Asking, packed
from chatpager.sessions.keeping import (
    BEAT_SECONDS,
    KEPT_AT_MOST,
    LIFE_SECONDS,
    MAX_PINS,
    MAX_PINS_OF_ONE,
    MAX_SPANS,
    Keeper,
    Span,
)


class Sent(list):
    """An engine's thread that only takes commands."""

    send = list.append

    def taken(self):
        """The owners of the hard leases asked for since the last call, and their tokens."""
        found = [(c.owner, c.tokens) for c in self if isinstance(c, LeaseRequest) and c.strength is Strength.HARD]
        self.clear()
        return found


class World:
    def __init__(self):
        self.now = 1000.0
        self.sent = Sent()
        self.keeper = Keeper(self.sent, lambda: self.now)

    def ended(self, change, owner="a"):
        event = LeaseEvent(owner=owner, change=change, strength=Strength.HARD, tokens=8, seconds_left=0.0)
        self.keeper.tell([event])

    def beat(self, seconds=BEAT_SECONDS):
        self.now += seconds
        self.keeper.beat()
        return self.sent.taken()


def test_what_is_to_be_kept_is_renewed_until_its_time_has_come():
    world = World()
    world.keeper.keep("a", 50)
    assert world.sent.taken() == [("a", None)]
    assert [world.beat() for _ in range(4)] == [[("a", None)], [("a", None)], [], []]
    assert LIFE_SECONDS > 2 * BEAT_SECONDS


def test_a_wish_is_never_shortened_and_nobody_without_a_head_has_one():
    world = World()
    world.keeper.keep("a", 50)
    world.keeper.keep("a", 5)
    world.keeper.keep("", 50)
    world.keeper.keep("b", 0)
    world.sent.clear()
    assert world.beat() == [("a", None)]


def test_a_wish_has_a_cap_and_so_has_their_number():
    world = World()
    world.keeper.keep("a", 10 * KEPT_AT_MOST)
    world.sent.clear()
    assert world.beat(KEPT_AT_MOST - 1) == [("a", None)]
    assert world.beat(2) == []
    for i in range(MAX_PINS + 1):
        world.keeper.keep(str(i), 1000)
    world.sent.clear()
    renewed = world.beat()
    assert len(renewed) == MAX_PINS
    assert ("0", None) not in renewed


def test_a_pin_that_replaces_another_is_shorter_than_it():
    world = World()
    world.keeper.keep("a", 500)
    world.keeper._note("a", 50, 16, replaces=True)
    world.sent.clear()
    assert [world.beat() for _ in range(4)] == [[("a", 16)], [("a", 16)], [], []]


def test_what_is_kept_for_longer_is_no_more_than_was_asked_to_be():
    """Of a session's pin and a longer one on a prefix the prefix alone is left when the session's ends."""
    world = World()
    world.keeper.keep("a", 50)
    world.keeper.keep("a", 90, 16)
    world.keeper.keep("a", 70, 24)
    world.keeper.keep("a", 60, 8)
    world.sent.clear()
    assert [world.beat() for _ in range(5)] == [[("a", None)], [("a", None)], [("a", 24)], [("a", 16)], []]


@given(st.lists(st.tuples(st.none() | st.integers(1, 7), st.integers(1, 50), st.integers(0, 30)), min_size=1))
def test_each_wish_is_kept_to_its_end_and_nothing_longer(wishes):
    """(tokens, seconds, seconds that pass): against all of them one by one."""
    world, all_ends = World(), []
    for tokens, seconds, passed in wishes:
        world.keeper.keep("a", seconds, tokens)
        all_ends.append((math.inf if tokens is None else tokens, world.now + seconds))
        world.now += passed
        world.sent.clear()
        world.keeper.beat()
        running = [tokens for tokens, until in all_ends if until > world.now]
        kept = world.sent.taken()
        assert [tokens or math.inf for _, tokens in kept] == ([max(running)] if running else [])


def test_a_pin_has_only_so_many_spans_and_each_wish_is_kept_to_its_end_at_least():
    world, tokens = World(), range(3 * MAX_SPANS, 0, -1)
    for i, some in enumerate(tokens):
        world.keeper.keep("a", 100 + i * i, some)
        assert len(world.keeper._pins["a"].spans) <= MAX_SPANS
    for i, some in enumerate(tokens):
        assert world.keeper._pins["a"].tokens(world.now + 99 + i * i) >= some
    assert world.keeper._pins["a"].until == 1100 + (len(tokens) - 1) ** 2
    assert world.keeper._pins["a"].tokens(1000.0 + 99 + (len(tokens) - 1) ** 2) < 3, "the far ones are not joined"


def test_what_is_put_off_to_the_same_end_is_one():
    world = World()
    world.keeper.keep("a", 30, 16)
    world.keeper.keep("a", 40, 8)
    world.keeper.alive(["a"], connected=True)
    assert world.keeper._pins["a"].spans == [Span(16, world.now + LIFE_SECONDS)]


def test_a_revoked_or_released_pin_is_over():
    for change in ("revoked", "released"):
        world = World()
        world.keeper.keep("a", 500)
        world.ended(change)
        world.sent.clear()
        assert world.beat() == []


def test_a_pin_whose_renewal_came_too_late_goes_on_and_one_whose_time_has_come_does_not():
    world = World()
    world.keeper.keep("a", 500)
    world.now += 2 * LIFE_SECONDS
    world.ended("expired")
    world.sent.clear()
    assert world.beat() == [("a", None)]
    world.now += 500
    world.keeper.alive(["a"])
    assert world.sent.taken() == []
    assert not world.keeper._pins


def test_a_renewal_is_no_longer_than_what_is_left():
    world = World()
    world.keeper.keep("a", 90)
    world.sent.clear()
    world.now += 85
    world.keeper.beat()
    assert [command.ttl for command in world.sent] == [5]


async def test_what_the_engine_refuses_leaves_the_pin_that_was_there():
    class Refusing(Sent):
        async def ask(self, question):
            return None

    keeper = Keeper(Refusing(), lambda: 0.0)
    assert await keeper.pin("a", Strength.SOFT, 30) is None
    assert await keeper.pin("a", Strength.HARD, 30) is None
    assert not keeper._pins
    keeper.keep("a", 500)
    assert await keeper.pin("a", Strength.HARD, 900) is None
    assert keeper._pins["a"].until == 500


async def test_what_is_longer_than_anything_is_asked_of_an_engine_behind_a_socket_too():
    class Behind(list):
        def send(self, command):
            self.append(packed(command))

        async def ask(self, question):
            self.append(packed(Asking(1, question)))
            return LeaseEvent(owner="a", change="granted", strength=Strength.HARD, tokens=8, seconds_left=60.0)

    engine = Behind()
    keeper = Keeper(engine, lambda: 0.0)
    for strength in Strength:
        assert await keeper.pin("a", strength, 10**400, 10**30)
    assert keeper._pins["a"].tokens(0.0) is None, "all of it"
    keeper.beat()
    assert len(engine) == 3


def test_who_is_connected_puts_the_end_of_a_pin_off_and_takes_no_more_of_it():
    world = World()
    world.keeper._note("a", 30, 16)
    for _ in range(5):
        world.now += 25
        world.keeper.alive(["a", "b", ""], connected=True)
        soft = [c.owner for c in world.sent if c.strength is Strength.SOFT]
        assert soft == ["a", "b"]
        assert world.sent.taken() == [("a", 16)]
    world.keeper._note("a", 10, 8)
    assert world.keeper._pins["a"].tokens(world.now) == 16
    world.now += 2 * LIFE_SECONDS
    world.keeper._note("a", 10, 8)
    assert world.keeper._pins["a"].tokens(world.now) == 8, "what had ended before is over"
    world.keeper.closed("a")
    world.keeper.alive(["a"], connected=True)
    assert world.sent.taken() == []


def test_one_tenant_s_pins_push_out_its_own():
    world = World()
    world.keeper.keep("ann\0a", 500)
    for i in range(MAX_PINS_OF_ONE + 1):
        world.keeper.keep(f"bob\0{i}", 500)
    world.sent.clear()
    renewed = world.beat()
    assert ("ann\0a", None) in renewed
    assert ("bob\x000", None) not in renewed
    assert len(renewed) == 1 + MAX_PINS_OF_ONE
