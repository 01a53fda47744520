"""The thread that writes to the disk and deletes from it, one thing after another, so that the engine need not wait."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Job = Callable[[], None]

PAUSE = 0.02
"""Seconds before each write while the disk gives way to the engine."""


class DiskJobs:
    """``lock`` guards what jobs share with those who put them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failed = 0
        self.closing = False
        self._queue: deque[Job] = deque()
        self._undone: list[Job] = []
        self._busy = False
        self._giving_way = False
        self._wake = threading.Condition(self.lock)
        self._thread = threading.Thread(target=self._do_all, name="chatpager-disk", daemon=True)
        self._thread.start()

    def put(self, job: Job, *, first: bool = False) -> None:
        """Do this last, or ``first``. Who calls has the lock."""
        (self._queue.appendleft if first else self._queue.append)(job)
        self._wake.notify_all()

    def put_off(self, job: Job) -> None:
        """The system refused what a job, which fails now, had to do: it is done once another one has succeeded."""
        self._undone.append(job)

    def give_way(self, wanted: bool) -> None:
        """Write slowly from now on: steps are computed, and on a small machine they need the core and the lock."""
        if wanted != self._giving_way:
            with self._wake:
                self._giving_way = wanted
                self._wake.notify_all()

    def pause(self) -> None:
        """By a job, before something is written: while the engine computes."""
        with self._wake:
            self._wake.wait_for(lambda: self.closing or not self._giving_way, PAUSE)

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether ``condition``, which jobs bring about, is true now or within ``seconds``."""
        with self._wake:
            return self._wake.wait_for(condition, seconds)

    def flush(self) -> None:
        """Return when there is nothing to do."""
        with self._wake:
            self._wake.wait_for(lambda: not self._queue and not self._busy)

    def close(self, patience: float) -> bool:
        """Do what there is, for at most ``patience`` seconds, and end the thread. False: it goes on yet."""
        with self._wake:
            self.closing = True
            self._wake.notify_all()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _do_all(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._queue or self.closing)
                if not self._queue:
                    return
                job = self._queue.popleft()
                self._busy = True
            try:
                job()
            except Exception as error:  # whatever it is, the thread goes on: others wait for it
                self.failed += 1
                if self.failed.bit_count() == 1:  # less and less often
                    log.warning("KV blocks cannot be written to disk (%d so far): %s", self.failed, error)
            else:
                with self.lock:
                    self._queue.extendleft(self._undone)
                    self._undone.clear()
