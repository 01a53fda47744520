"""How often an engine that died is made again, before somebody has to look at it; and when, where it cannot be made."""

from __future__ import annotations

import random
from collections import deque

MOST, SECONDS = 3, 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
NEW_SECONDS = 2 * LONGEST_PAUSE
"""After so long since the last start a further one has nothing to do with it."""


class Breaker:
    """Allows ``most`` restarts in any ``seconds``: what dies more often dies of what it was started with."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        self._most, self._seconds = most, seconds
        self._times: deque[float] = deque()

    def another(self) -> Breaker:
        """The same for another engine."""
        return Breaker(self._most, self._seconds)

    def allows(self, now: float) -> bool:
        """Whether to start again now; that counts as one. ``now`` is on any clock in seconds that never goes back."""
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True


class Pauses:
    """Before each further start: none, then twice as long each time. A random half of each keeps the replicas of many
    servers from coming at once."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._last: float | None = None

    def before(self, now: float) -> float:
        """Seconds that a start waits that is due ``now``, on any clock in seconds that never goes back."""
        if self._last is None or now - self._last > NEW_SECONDS:
            self._longest = 0.0
        pause = self._longest * random.uniform(0.5, 1.0)  # noqa: S311
        self._longest = min(2 * self._longest or FIRST_PAUSE, LONGEST_PAUSE)
        self._last = now + pause
        return pause
