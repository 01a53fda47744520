"""/metrics as numbers, and what happened between two looks at it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, nan

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*?)\})? (\S+)$", re.MULTILINE)
_LE = re.compile(r'le="([^"]+)"')

Samples = Mapping[tuple[str, str], float]
"""(name without ``chatpager_``, labels as they are written) -> value."""


def parse(text: str) -> Samples:
    return {(name.removeprefix("chatpager_"), labels): float(v) for name, labels, v in _SAMPLE.findall(text)}


def total(samples: Samples, name: str, labels: str = "") -> float:
    """Of all samples of this name whose labels have ``labels`` among them."""
    return sum(value for (found, of), value in samples.items() if found == name and labels in of)


def grown(before: Samples, after: Samples, name: str, labels: str = "") -> float:
    return total(after, name, labels) - total(before, name, labels)


def quantile(before: Samples, after: Samples, name: str, share: float) -> float:
    """The bound of a histogram under which ``share`` of what was observed in between stayed; nan where nothing was."""
    counts = sorted(
        (float(bound[1]), value - before.get((found, labels), 0.0))
        for (found, labels), value in after.items()
        if found == f"{name}_bucket" and (bound := _LE.search(labels))
    )
    if not counts or not counts[-1][1]:
        return nan
    return next((bound for bound, count in counts if count >= share * counts[-1][1]), inf)
