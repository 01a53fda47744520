"""A lower tier is asked for a block only where bringing it back takes less time than computing it."""

import pytest

from chatpager.engine.block_times import FORGIVENESS, BlockTimes
from chatpager.engine.host_tier import HostTier
from chatpager.engine.reading import Source
from chatpager.engine.tiers import TRIED_BLOCKS, Tiers
from tests.engine.fakes import FakeRunner, answer, continuation, make_engine, request, run
from tests.engine.tiering import LONG, flood, sources


class SlowCopies(FakeRunner):
    """Copies take ``out`` and ``back`` seconds a block, of a clock that otherwise stands."""

    def __init__(self, out=0.0, back=0.0, **sizes):
        super().__init__(**sizes)
        self.out, self.back = out, back
        self.now = 0.0
        self.copied = []

    def read_blocks(self, ids):
        self.now += self.out * len(ids)
        return super().read_blocks(ids)

    def write_blocks(self, ids, contents):
        self.now += self.back * len(ids)
        self.copied.append(len(ids))
        super().write_blocks(ids, contents)


def with_slow_copies(*, compute, num_blocks=20, **seconds):
    """An engine whose host memory is that far away."""
    engine = make_engine(num_blocks=num_blocks, host_blocks=64)
    runner = engine.runner
    runner.__class__ = SlowCopies
    runner.out, runner.back, runner.now, runner.copied = 0.0, 0.0, 0.0, []
    vars(runner).update(seconds)
    engine.cache.tiers = engine.tiers = Tiers(runner, host=HostTier(64), clock=lambda: runner.now)
    engine.tiers.measure([1, 2, 3, 4])
    engine.tiers.times.compute.add(compute)
    engine.steps._time_step = lambda plan, seconds: None  # its steps take no time
    return engine


def test_what_copies_take_is_measured_at_the_start_by_a_few_blocks():
    engine = make_engine(host_blocks=8)
    assert (engine.tiers.times.copy_out.seconds, engine.tiers.times.copy_back.seconds) == (0.0, 0.0)
    engine = with_slow_copies(compute=1.0, out=0.25, back=0.5)
    assert engine.stats().block_seconds == {"compute": 1.0, "copy_out": 0.25, "copy_back": 0.5}
    assert engine.runner.copied == [4, 4]
    assert make_engine(num_blocks=3, host_blocks=8).tiers.times.copy_back.seconds == 0.0
    assert make_engine().stats().block_seconds == {}


@pytest.mark.parametrize(("back", "used"), [(0.4, True), (0.6, False)])
def test_host_memory_that_is_slower_than_computing_is_passed_over(back, used):
    engine = with_slow_copies(compute=0.5, back=back)
    answer(engine, "first", LONG, owner="s")
    flood(engine)
    host = sources(answer(engine, "again", LONG, owner="s"))[1]
    assert (host > 0) is used
    assert engine.stats().passed_over == {"host": int(not used), "disk": 0}


def test_it_is_tried_again_by_a_few_blocks():
    engine = with_slow_copies(compute=0.5, back=0.6)
    answer(engine, "first", LONG, owner="s")
    flood(engine)
    while engine.tiers.times.is_slower(Source.HOST):
        pass
    assert engine.tiers.times.copy_back.forgiven
    engine.runner.copied.clear()
    assert sources(answer(engine, "again", LONG, owner="s"))[1] == 4 * TRIED_BLOCKS
    assert engine.runner.copied == [TRIED_BLOCKS]
    assert engine.tiers.times.is_slower(Source.HOST), "it has not become any faster"
    flood(engine, name="more")
    engine.runner.back = 0.0
    for _ in range(4):  # it has
        engine.tiers.times.copy_back.add(0.0)
    assert sources(answer(engine, "third", LONG, owner="s"))[1] > 4 * TRIED_BLOCKS


@pytest.mark.parametrize(("out", "mode"), [(0.05, "swap"), (0.5, "recompute")])
def test_a_preempted_sequence_is_swapped_only_if_that_takes_less_time(out, mode):
    engine = with_slow_copies(compute=0.5, out=out, back=0.1, num_blocks=24)
    for i in range(3):
        engine.add(request(f"r{i}", range(100 * i, 100 * i + 24), 36), 0.0)
    tokens, _ = run(engine)
    for i in range(3):
        assert tokens[f"r{i}"][0] == continuation(range(100 * i, 100 * i + 24), 36)
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.swaps == (stats.preemptions if mode == "swap" else 0)
    assert (engine.tiers.stats.demoted_blocks > 0) is (mode == "swap")


def test_a_conversations_blocks_go_to_host_memory_although_a_turn_of_it_was_preempted():
    engine = with_slow_copies(compute=0.5, out=0.5, back=0.1, num_blocks=24)
    answer(engine, "first", range(24), 1, owner="s")
    for i in range(3):
        engine.add(request(f"r{i}", range(100 * i, 100 * i + 24), 36, owner="s" if not i else ""), 0.0)
    run(engine)
    assert engine.stats().preemptions > 0
    assert engine.tiers.stats.demoted_blocks > 0


def test_nothing_is_passed_over_as_long_as_nothing_is_known():
    times = BlockTimes()
    times.copy_back.add(9.0)
    assert not times.is_slower(Source.HOST) and not times.swap_is_slower()
    times.compute.add(1.0)
    assert not times.is_slower(Source.DISK)
    assert times.is_slower(Source.HOST)
    assert times.copy_back.seconds == 9.0 * FORGIVENESS
