"""How fast one client may talk."""

from __future__ import annotations


class TokenBucket:
    """``burst`` tokens at first and at the most; ``rate`` of them come back a second. Times are in seconds."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, now

    def take(self, now: float) -> float:
        """A token is taken, and may be used in so many seconds."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)
