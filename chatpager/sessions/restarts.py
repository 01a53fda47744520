"""How often an engine that died is made again, before somebody has to look at it."""

from __future__ import annotations

from collections import deque

MOST, SECONDS = 3, 60.0


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
