"""Seconds by size, in a fixed array of buckets whose bounds are powers of two: to count one is an addition, whatever
has come before."""

from __future__ import annotations

import math

import msgspec


class Distribution(msgspec.Struct, frozen=True):
    """``buckets``: (upper bound in seconds, how many were at most that), the last bound infinite; ``seconds``: all of
    them together."""

    buckets: list[tuple[float, int]]
    seconds: float

    @property
    def count(self) -> int:
        return self.buckets[-1][1]


class Histogram:
    """Bounds are 2**least to 2**most seconds."""

    def __init__(self, least: int, most: int) -> None:
        self.seconds = 0.0
        self._least = least
        self._counts = [0] * (most - least + 2)
        self._last, self._place = 0.0, 0
        """The seconds that were added last, and where they are counted."""

    def add(self, seconds: float, count: int = 1) -> None:
        if seconds != self._last:  # all that a step brings took as long
            mantissa, exponent = math.frexp(seconds)
            place = exponent - self._least - (mantissa == 0.5)  # a power of two is its own bound
            self._place = min(max(place, 0), len(self._counts) - 1) if seconds > 0 else 0
            self._last = seconds
        self._counts[self._place] += count
        if seconds > 0:
            self.seconds += seconds * count

    def distribution(self) -> Distribution:
        buckets: list[tuple[float, int]] = []
        total = 0
        for place, count in enumerate(self._counts):
            total += count
            last = place == len(self._counts) - 1
            buckets.append((math.inf if last else 2.0 ** (self._least + place), total))
        return Distribution(buckets, self.seconds)
