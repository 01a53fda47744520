"""Blocks are read from disk in slices, and only for as long as that is faster than computing them."""

import pytest

from chatpager.engine.block_pool import BlockPool
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.reading import LEAST_PATIENCE, SLICE_SECONDS, SLOWEST_SECONDS, Reading, Source
from tests.engine.fakes import answer, continuation, make_engine, request, run, step
from tests.engine.tiering import LONG, sources

OTHER = list(range(200, 217))
COMPUTE = 0.05
"""Seconds that computing a block takes."""


class Disk:
    """Every read takes ``seconds`` of a clock that otherwise stands."""

    def __init__(self, monkeypatch):
        self.now, self.seconds, self.reads = 0.0, 0.0, 0
        find = DiskTier.find

        def slow(tier, proof):
            self.now += self.seconds
            self.reads += 1
            return find(tier, proof)

        monkeypatch.setattr(DiskTier, "find", slow)


@pytest.fixture
def slow(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture
def warm(disk, slow):
    """An engine on whose disk LONG and OTHER are, of the sessions s and t."""
    first = make_engine(num_blocks=60, disk=disk())
    answer(first, "first", LONG, owner="s")
    answer(first, "second", OTHER, owner="t")
    first.close()

    def open_engine(**sizes):
        engine = make_engine(**{"num_blocks": 60, "max_tokens": 64, **sizes}, disk=disk())
        engine.tiers.times.compute.add(COMPUTE)
        engine.tiers._clock = lambda: slow.now
        return engine

    return open_engine


def test_while_others_compute_a_step_reads_for_a_slice(warm, slow):
    engine = warm()
    engine.add(request("busy", [1, 2, 3], 8), 0.0)
    step(engine)
    slow.seconds = 0.6 * SLICE_SECONDS
    engine.add(request("again", LONG, 4, owner="s"), 0.0)
    for steps in range(1, 5):
        step(engine)
        assert slow.reads == 2 * steps
        assert [seq.request_id for seq in engine.scheduler.running] == ["busy"]
    tokens, finals = run(engine)
    assert slow.reads == 9
    assert sources(finals["again", 0]) == (0, 0, 36)
    assert tokens["again"][0] == continuation(LONG, 4)
    assert len(tokens["busy"][0]) == 8


def test_where_nothing_else_is_computed_all_is_read_at_once(warm, slow):
    engine = warm()
    slow.seconds = 1.1 * SLICE_SECONDS
    engine.add(request("again", LONG, 4), 0.0)
    step(engine)
    assert (slow.reads, len(engine.scheduler.running)) == (9, 1)


def test_two_share_a_slice_and_both_get_what_is_theirs(warm, slow):
    engine = warm()
    engine.add(request("busy", [1, 2, 3], 30), 0.0)
    step(engine)
    slow.seconds = 1.1 * SLICE_SECONDS
    engine.add(request("s", LONG), 0.0)
    engine.add(request("t", OTHER), 0.0)
    for steps in range(1, 10):
        step(engine)
        assert slow.reads == steps
    _, finals = run(engine)
    assert sources(finals["s", 0]) == (0, 0, 36)
    assert sources(finals["t", 0]) == (0, 0, 16)


@pytest.mark.parametrize(("seconds", "read"), [(COMPUTE, 9), (1.5 * COMPUTE, 2), (3 * COMPUTE, 1)])
def test_a_disk_that_is_slower_than_computing_is_left_and_what_it_gave_is_used(warm, slow, seconds, read):
    engine = warm()
    engine.tiers.times.read.add(0.0)
    slow.seconds = seconds
    final = answer(engine, "again", LONG)
    assert sources(final) == (0, 0, 4 * read)
    assert engine.tiers.stats.late_loads == (read < 9)


def test_what_was_left_is_not_read_later_by_the_same_prompt(warm, slow):
    engine = warm()
    engine.add(request("busy", [1, 2, 3], 8), 0.0)
    step(engine)
    slow.seconds = 10 * COMPUTE
    engine.add(request("again", LONG), 0.0)
    _, finals = run(engine)
    assert (slow.reads, sources(finals["again", 0])) == (1, (0, 0, 4))


def test_the_patience_of_a_prompt():
    short = Reading(missing=1)
    assert not short.read(LEAST_PATIENCE, 1e-6)
    assert short.read(LEAST_PATIENCE, 1e-6)
    long = Reading(missing=100)
    assert not long.read(0.99, 0.1)
    assert not long.read(0.2, 0.1)
    assert long.read(0.2, 0.1)
    unknown = Reading(missing=100)
    assert not unknown.read(SLOWEST_SECONDS, None)
    assert unknown.read(1.1 * SLOWEST_SECONDS, None)


def test_what_was_brought_and_evicted_meanwhile_counts_no_more():
    pool, reading = BlockPool(3), Reading(missing=2)
    one, two = pool.take_free(), pool.take_free()
    for block, source in ((one, Source.HOST), (two, Source.DISK)):
        pool.name(block, bytes([block.id]), None, (block.id,))
        reading.brought(block, source)
    assert reading.sources([one, two]) == {Source.HOST: 1, Source.DISK: 1}
    pool.release(two)
    pool.evict(two)
    pool.name(pool.take_free(), b"new", None, (9,))
    assert reading.sources([one, two]) == {Source.HOST: 1}


def test_a_cancelled_one_leaves_what_has_come(warm, slow):
    engine = warm()
    engine.add(request("busy", [1, 2, 3], 8), 0.0)
    step(engine)
    slow.seconds = 1.1 * SLICE_SECONDS
    engine.add(request("again", LONG), 0.0)
    step(engine, 3)
    engine.cancel("again")
    run(engine)
    assert slow.reads == 3
    assert sources(answer(engine, "later", LONG)) == (12, 0, 24)


def test_the_blocks_of_host_memory_wait_for_no_slice(warm, slow):
    engine = warm(num_blocks=25, host_blocks=60)
    answer(engine, "here", range(100, 116), owner="u")
    ids = engine.cache.allocate(engine.pool.available)
    engine.cache.free(ids)
    engine.add(request("busy", [1, 2, 3], 8), 0.0)
    step(engine)
    slow.seconds, slow.reads = 1.1 * SLICE_SECONDS, 0
    engine.add(request("again", LONG), 0.0)
    step(engine)
    assert slow.reads == 1
    _, finals = run(engine)
    assert sources(finals["again", 0])[1] > 0
    assert sum(sources(finals["again", 0])) == 36
