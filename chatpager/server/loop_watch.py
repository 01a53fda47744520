"""How late the event loop comes to what is due, and who held it up where that was long."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

BEAT_SECONDS = 0.05
"""Between two looks."""
LATE_SECONDS = 0.5
"""A loop that comes later than that is warned of: answers stand still for all."""
REMIND_SECONDS = 10.0
"""Between two warnings, at the least."""
OURS = "chatpager."


class LoopWatch:
    """``lag`` is told of every look, in seconds. A warning names what was running while the loop did not come: a thread
    of its own looks at that, for afterwards nobody can say. ``clock`` is in seconds and never goes back."""

    def __init__(
        self,
        lag: Callable[[float], None],
        *,
        late: float = LATE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lag, self._late, self._clock = lag, late, clock
        self._due = 0.0
        self._seen = ""
        """What held the loop up since it came last."""
        self._quiet_until = 0.0
        self._over = threading.Event()

    async def run(self) -> None:
        """For as long as the loop runs."""
        looking = threading.Thread(
            target=self._look_on,
            args=(asyncio.get_running_loop(), threading.get_ident()),
            name="chatpager-loop-watch",
            daemon=True,
        )
        self._due = self._clock() + BEAT_SECONDS
        looking.start()
        try:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                self._came(self._clock())
        finally:
            self._over.set()

    def _came(self, now: float) -> None:
        late, self._due = max(0.0, now - self._due), now + BEAT_SECONDS
        self._lag(late)
        held_up_by, self._seen = self._seen, ""
        if late > self._late and now >= self._quiet_until:
            self._quiet_until = now + REMIND_SECONDS
            log.warning("loop.late", seconds=round(late, 3), held_up_by=held_up_by or "unknown")

    def _look_on(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        while not self._over.wait(self._late / 4):
            if self._clock() - self._due > self._late / 2 and not self._seen:
                frame, task = sys._current_frames().get(ident), asyncio.current_task(loop)
                coroutine = getattr(task.get_coro(), "__qualname__", "") if task else ""
                self._seen = f"{where(frame)}, task {coroutine}" if coroutine else where(frame)


def where(frame: FrameType | None) -> str:
    """The innermost function of ours that runs there, else the innermost of all; never what it works with."""
    innermost = frame
    while frame is not None and not frame.f_globals.get("__name__", "").startswith(OURS):
        frame = frame.f_back
    found = frame or innermost
    return f"{found.f_globals.get('__name__')}.{found.f_code.co_name}:{found.f_lineno}" if found else "unknown"
