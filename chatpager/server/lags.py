"""Seconds by size, of what happens by the ten thousand a second."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Lags(Collector):
    """A histogram that is written to by one thread, and so needs no locks; ``bounds`` as of any other."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name, self._about, self._bounds = name, about, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += count
        self._sum += seconds * count

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._about)
        total, buckets = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((str(bound), total))
        family.add_metric([], buckets, self._sum)
        yield family
