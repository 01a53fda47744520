"""What a block takes to be computed, copied to host memory and back, or read from disk: whether a lower tier is worth
asking for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chatpager.engine.reading import Source

SMOOTHING = 0.2
"""Weight of the latest measurement in a moving average."""
FORGIVENESS = 0.98
"""What a tier that was too slow seems to take, each time it is passed over: a moment's stall is not held against it
for ever."""


@dataclass
class Average:
    """A moving average of seconds; None until something was measured."""

    seconds: float | None = None
    forgiven: bool = False
    """It was lowered since something was measured last."""

    def add(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds is None else self.seconds + SMOOTHING * (seconds - self.seconds)
        self.forgiven = False

    def forgive(self) -> None:
        if self.seconds is not None:
            self.seconds *= FORGIVENESS
            self.forgiven = True


@dataclass
class BlockTimes:
    compute: Average = field(default_factory=Average)
    copy_out: Average = field(default_factory=Average)
    copy_back: Average = field(default_factory=Average)
    read: Average = field(default_factory=Average)
    passed_over: Counter[Source] = field(default_factory=Counter)
    """Searches of a tier that ended because computing is faster, and preemptions for which host memory was no use."""

    def is_slower(self, source: Source) -> bool:
        """Whether to bring a block back from there takes longer than to compute it, as far as both are known."""
        return self._are_slower(source, self.copy_back if source is Source.HOST else self.read)

    def swap_is_slower(self) -> bool:
        """The same of copying it out and back."""
        return self._are_slower(Source.HOST, self.copy_out, self.copy_back)

    def _are_slower(self, source: Source, *ways: Average) -> bool:
        spent = [way.seconds for way in ways if way.seconds is not None]
        if not spent or self.compute.seconds is None or sum(spent) <= self.compute.seconds:
            return False
        for way in ways:
            way.forgive()
        self.passed_over[source] += 1
        return True
