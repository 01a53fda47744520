"""How long tools take: from the call to the turn that brings its result, learned per tenant and tool.

Gaps of one tool are taken as log-normal: most are alike and a few are many times longer. Mean and variance of their
logarithms are estimated online; the older an observation, the less it counts, so a tool that becomes slow is believed
after some calls. A prefix is kept for as long as four out of five gaps last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN_SECONDS = 60.0
"""For a tool of which nothing is known."""
AT_LEAST, AT_MOST = 5.0, 600.0
"""Seconds; a soft lease lasts no longer."""
OBSERVABLE = (0.001, 86_400.0)
"""Seconds that a gap counts as: a clock's step is no tool, and a person who comes back after days is none either."""
PERCENTILE_80 = 0.8416
"""In standard deviations above the mean."""
FIRST_VARIANCE = 1.0
"""Of the logarithms, after one observation: one gap says little about the next, which may be 2.7 times as long."""
MEMORY = 64
"""Observations that count as much as the last one, about."""
MAX_TOOLS, MAX_WAITING = 1 << 12, 1 << 14


class Gaps(NamedTuple):
    """The estimate of one tool's: ``mean`` and ``variance`` are of natural logarithms of seconds."""

    seen: int
    mean: float
    variance: float

    def after(self, seconds: float) -> Gaps:
        low, high = OBSERVABLE
        count = min(self.seen + 1, MEMORY)
        apart = math.log(min(max(seconds, low), high)) - self.mean
        if count == 1:
            return Gaps(1, self.mean + apart, FIRST_VARIANCE)
        variance = (1 - 1 / count) * (self.variance + apart * apart / count)
        return Gaps(count, self.mean + apart / count, variance)

    @property
    def length(self) -> float:
        """Seconds within which four out of five are over."""
        return math.exp(self.mean + PERCENTILE_80 * math.sqrt(self.variance))


class Waiting(NamedTuple):
    tool: str
    since: float


class ToolGaps:
    """``now`` is always in seconds of one clock that does not go back. The tools and calls that were heard of longest
    ago are forgotten where there are too many."""

    def __init__(self, *, tools: int = MAX_TOOLS, waiting: int = MAX_WAITING) -> None:
        self._most_tools, self._most_waiting = tools, waiting
        self._gaps: OrderedDict[tuple[str, str], Gaps] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, str], Waiting] = OrderedDict()

    def observe(self, tenant: str, tool: str, seconds: float) -> None:
        gaps = self._gaps.pop((tenant, tool), Gaps(0, 0.0, 0.0))
        self._gaps[tenant, tool] = gaps.after(seconds)
        if len(self._gaps) > self._most_tools:
            self._gaps.popitem(last=False)

    def length(self, tenant: str, tools: Sequence[str]) -> float:
        """Seconds for which to keep a prefix that waits for all of these."""
        return max(self._length(tenant, tool) for tool in tools)

    def slowest(self, tenant: str, tools: Sequence[str]) -> str:
        """The one that decides it."""
        return max(tools, key=lambda tool: self._length(tenant, tool))

    def _length(self, tenant: str, tool: str) -> float:
        gaps = self._gaps.get((tenant, tool))
        return min(max(gaps.length, AT_LEAST), AT_MOST) if gaps else UNKNOWN_SECONDS

    # -- what is waited for -------------------------------------------------------------------------------------------

    def called(self, tenant: str, key: str, tool: str, now: float) -> None:
        """The tool runs from now on; ``key`` is the call's id, or a conversation that was said to wait for it."""
        self._waiting.pop((tenant, key), None)
        self._waiting[tenant, key] = Waiting(tool, now)
        if len(self._waiting) > self._most_waiting:
            self._waiting.popitem(last=False)

    def returned(self, tenant: str, key: str, now: float) -> None:
        """It is over. Told again, as a client does that tries again or sends the whole conversation, it is no gap."""
        waiting = self._waiting.pop((tenant, key), None)
        if waiting is not None:
            self.observe(tenant, waiting.tool, now - waiting.since)
