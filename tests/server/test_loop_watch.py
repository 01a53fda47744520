"""The event loop's lag, and the word of who held it up."""

import asyncio
import sys
import threading
import time

import pytest
from structlog.testing import capture_logs

from chatpager.server import loop_watch
from chatpager.server.loop_watch import BEAT_SECONDS, REMIND_SECONDS, LoopWatch, where
from tests.serving import DEADLINE, eventually


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def come(watch, clock, *lates):
    for late in lates:
        clock.now += BEAT_SECONDS + late
        watch._came(clock.now)


def make(late=0.5):
    lags, clock = [], Clock()
    watch = LoopWatch(lags.append, late=late, clock=clock)
    watch._due = BEAT_SECONDS
    return watch, clock, lags


def test_the_lag_is_what_the_loop_comes_too_late():
    watch, clock, lags = make()
    come(watch, clock, 0.0, 0.25, 3.0, 0.0)
    assert lags == pytest.approx([0.0, 0.25, 3.0, 0.0])


def test_it_is_warned_of_above_a_threshold_and_not_without_end():
    watch, clock, _ = make()
    with capture_logs() as said:
        come(watch, clock, 0.4, 0.75, 0.75)
        clock.now += REMIND_SECONDS
        watch._due = clock.now + BEAT_SECONDS
        come(watch, clock, 1.5)
    assert [(line["event"], line["log_level"], line["seconds"]) for line in said] == [
        ("loop.late", "warning", 0.75),
        ("loop.late", "warning", 1.5),
    ]
    assert said[0]["held_up_by"] == "unknown"


async def holds_it_up(watch):
    """Until somebody has seen it, and long enough."""
    until = time.monotonic() + DEADLINE
    while not (watch._seen and watch._clock() > watch._due + 2 * watch._late) and time.monotonic() < until:
        pass


async def test_the_warning_names_the_task_that_held_the_loop_up():
    watch = LoopWatch(lambda seconds: None, late=0.02)
    with capture_logs() as said:
        watching = asyncio.ensure_future(watch.run())
        await asyncio.sleep(0)
        await asyncio.create_task(holds_it_up(watch))
        await eventually(lambda: said)
        watching.cancel()
    assert said[0]["event"] == "loop.late"
    assert said[0]["held_up_by"].endswith("task holds_it_up") and "holds_it_up:" in said[0]["held_up_by"]


async def test_its_thread_ends_with_it():
    watching = asyncio.ensure_future(LoopWatch(lambda seconds: None, late=0.01).run())
    await asyncio.sleep(0)
    [thread] = [one for one in threading.enumerate() if one.name == "chatpager-loop-watch"]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await asyncio.to_thread(thread.join, DEADLINE)
    assert not thread.is_alive()


def test_of_what_runs_the_innermost_of_ours_is_named(monkeypatch):
    def innermost():
        return where(sys._getframe())

    assert innermost().startswith(f"{__name__}.innermost:")
    monkeypatch.setattr(loop_watch, "OURS", "nobody.")
    assert innermost().startswith(f"{__name__}.innermost:"), "where there is none, whoever it is"
    assert where(None) == "unknown"


async def test_a_server_watches_its_loop(server):
    tasks = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "LoopWatch.run"]
    assert len(tasks) == 1
