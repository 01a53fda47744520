"""Blocks are read from disk beside the steps; whoever waits for them waits for as long as that is worth it."""

import threading

import pytest

from chatpager.engine import tiers
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.loading import LEAST_PATIENCE, UNKNOWN_PATIENCE, Load
from tests.engine.fakes import answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG, sources

OTHER = list(range(200, 217))
BLOCK_SECONDS = 1.0
"""What computing a block takes."""


class SlowDisk:
    """Lets ``allowed`` blocks be read, and keeps the next reader waiting until it is told to let it go."""

    def __init__(self, monkeypatch):
        self.allowed = 0
        self.now = 0.0
        self._changed = threading.Condition()
        self._reading = False
        find = DiskTier.find

        def slow(tier, proof):
            with self._changed:
                self._reading = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self.allowed > 0)
                self.allowed -= 1
                self._reading = False
            return find(tier, proof)

        monkeypatch.setattr(DiskTier, "find", slow)
        monkeypatch.setattr(tiers, "LOAD_SECONDS", 0.0)

    def give(self, blocks):
        """Return when so many more were read and the reader waits for the next."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._reading, 10)
            self.allowed = blocks
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._reading and not self.allowed, 10)

    def give_all(self):
        with self._changed:
            self.allowed = 1 << 30
            self._changed.notify_all()


@pytest.fixture
def slow(monkeypatch):
    slow = SlowDisk(monkeypatch)
    yield slow
    slow.give_all()


@pytest.fixture
def warm(disk):
    """An engine on whose disk LONG and OTHER are, of the sessions s and t."""
    first = make_engine(num_blocks=60, disk=disk())
    answer(first, "first", LONG, owner="s")
    answer(first, "second", OTHER, owner="t")
    first.close()

    def open_engine(slow=None, **sizes):
        engine = make_engine(**{"num_blocks": 60, **sizes}, disk=disk())
        engine.tiers.compute_seconds.add(BLOCK_SECONDS)
        if slow:
            engine.tiers._clock = lambda: slow.now
        return engine

    return open_engine


def ask(engine, name, prompt, count=4, **more):
    engine.add(request(name, prompt, count, **more), 0.0)


def test_others_go_on_while_one_waits_for_its_blocks(warm, slow):
    engine = warm(slow)
    ask(engine, "again", LONG, owner="s")
    ask(engine, "new", [1, 2, 3], 8)
    step(engine, 5)
    assert len(engine.runner.tokens["new"][0]) == 5
    assert engine.scheduler.waiting[0].request_id == "again"
    slow.give_all()
    _, finals = run(engine)
    assert sources(finals["again", 0]) == (0, 0, 36)
    assert engine.runner.tokens["again"][0] == continuation(LONG, 4)


def test_an_engine_with_nothing_else_to_do_waits_with_it(warm, slow):
    engine = warm(slow)
    ask(engine, "again", LONG)
    step(engine, 3)
    assert (engine.has_work, engine.runner.steps) == (True, [])
    slow.give_all()
    _, finals = run(engine)
    assert sources(finals["again", 0]) == (0, 0, 36)


@pytest.mark.parametrize(("come", "waited"), [(0, 0.9), (3, 3.9)])
def test_a_disk_that_falls_behind_is_left_and_what_came_in_time_is_used(warm, slow, come, waited):
    engine = warm(slow)
    ask(engine, "again", LONG)
    step(engine)
    if come:
        slow.give(come)
    slow.now = waited
    step(engine)
    assert engine.scheduler.waiting
    slow.now = waited + 0.01
    step(engine)
    assert engine.scheduler.running
    _, finals = run(engine)
    assert sources(finals["again", 0]) == (0, 0, 4 * come)
    assert finals["again", 0].usage.computed_tokens == 40 - 4 * come
    assert engine.tiers.stats.late_loads == 1


def test_where_nothing_is_known_of_computing_a_second_without_a_block_is_too_long():
    load = Load([b"a" * 32, b"b" * 32])
    load.began = load.latest = 5.0
    assert not load.is_late(5.0 + UNKNOWN_PATIENCE, None)
    assert load.is_late(5.01 + UNKNOWN_PATIENCE, None)
    load.latest = 6.0
    assert not load.is_late(5.01 + UNKNOWN_PATIENCE, None)


def test_a_moment_says_nothing_about_a_disk():
    load = Load([b"a" * 32])
    load.began = 0.0
    assert not load.is_late(LEAST_PATIENCE, 1e-6)
    assert load.is_late(2 * LEAST_PATIENCE, 1e-6)


def test_a_disk_that_hangs_stops_nobody_for_long(warm, slow):
    engine = warm(slow, max_tokens=64)
    for name, prompt in (("first", LONG), ("second", OTHER)):
        ask(engine, name, prompt)
        step(engine)
        slow.now += 100
        step(engine)
        assert [seq.request_id for seq in engine.scheduler.running][-1] == name
    _, finals = run(engine)
    assert {sources(final) for final in finals.values()} == {(0, 0, 0)}
    engine.close()


def test_one_is_loaded_after_the_other(warm, slow):
    engine = warm(slow)
    ask(engine, "s", LONG)
    ask(engine, "t", OTHER)
    step(engine, 2)
    slow.give(3)
    step(engine)
    assert [seq.load.began is not None for seq in engine.scheduler.waiting] == [False, True]
    slow.give_all()
    _, finals = run(engine)
    assert sources(finals["s", 0]) == (0, 0, 36)
    assert sources(finals["t", 0]) == (0, 0, 16)


def test_what_waits_in_memory_is_bounded(warm, monkeypatch):
    monkeypatch.setattr(tiers, "MOST_STAGED", 5 * 32)
    engine = warm()
    final = answer(engine, "again", LONG)
    assert sources(final) == (0, 0, 20)
    assert engine.tiers._staged == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_is_cancelled_leaves_nothing_behind(warm, slow, when):
    engine = warm(slow)
    ask(engine, "again", LONG)
    step(engine)
    if when == "after":
        slow.give(2)
        step(engine)
    engine.cancel("again")
    slow.give_all()
    run(engine)
    assert (engine.tiers._staged, engine.tiers._reading) == ([], None)
    assert sources(answer(engine, "other", OTHER)) == (0, 0, 16)


def test_what_was_forgotten_meanwhile_is_not_used(warm, slow):
    engine = warm(slow)
    ask(engine, "again", LONG)
    step(engine)
    slow.give(4)
    engine.cache.reset()
    slow.give_all()
    _, finals = run(engine)
    assert sources(finals["again", 0]) == (0, 0, 0)
    assert engine.tiers.disk.bad_files == 0


def test_a_gap_in_what_came_ends_the_prefix(warm, slow):
    engine = warm(slow, host_blocks=2)
    ask(engine, "again", LONG)
    step(engine)
    seq = engine.scheduler.waiting[0]
    engine.tiers.disk.forget(seq.load.proofs[3])
    slow.give_all()
    _, finals = run(engine)
    assert sources(finals["again", 0]) == (0, 0, 12)
