"""An engine that hangs ends its process: whoever supervises that starts another, which goes on with what is stored. One
in a process of its own is started again by the server."""

from __future__ import annotations

import os
import threading
import time

import structlog

from chatpager.engine.servant import COMMANDS
from chatpager.sessions.engine_host import EngineHost

log = structlog.get_logger(__name__)

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h; no other end of ours has it."""
LOOKS = 10
"""In the time that a step may take."""
COMMAND_SECONDS = 60.0
"""That one command or question may take at least: a grammar is compiled in it, or blocks are read from a disk."""


class StepWatch:
    """Tells when one step was seen running for as long as it is ``allowed``, and again after as long once more.
    ``between`` two looks counts once at the most: a process that was stopped meanwhile, or a machine that slept, has
    not hung."""

    def __init__(self, limit: float, between: float) -> None:
        self._limit, self._between = limit, between
        self._step: int | None = None
        self._seen = 0.0

    def look(self, step: int | None, elapsed: float) -> bool:
        """``step`` is running, None: none is; ``elapsed`` seconds since the last look."""
        if step is None or step != self._step:
            self._step, self._seen = step, 0.0
            return False
        self._seen += min(elapsed, self._between)
        if self._seen < allowed(step, self._limit):
            return False
        self._seen = 0.0  # what was killed takes its time to end, and the next one to begin
        return True


def allowed(step: int | None, limit: float) -> float:
    """Seconds that what has this number may take, where a step may take ``limit``."""
    return limit if step is None or step < COMMANDS else max(limit, COMMAND_SECONDS)


def watch(engine: EngineHost, limit: float) -> None:
    """From a thread of its own, which the event loop cannot hold up. 0: not at all."""
    for each in engine.engines if limit else ():
        threading.Thread(target=_watch, args=(each, limit), name="chatpager-watchdog", daemon=True).start()


def _watch(engine: EngineHost, limit: float) -> None:
    between = limit / LOOKS
    steps, last = StepWatch(limit, 1.5 * between), time.monotonic()
    while True:
        time.sleep(between)
        now = time.monotonic()
        step = engine.step
        if steps.look(step, now - last):
            seconds = allowed(step, limit)
            if engine.kill():
                log.critical("engine.hangs", seconds=seconds, result="the engine's process is killed")
            else:
                log.critical("engine.hangs", seconds=seconds, result=f"the process ends with exit code {EXIT_CODE}")
                os._exit(EXIT_CODE)
        last = now
