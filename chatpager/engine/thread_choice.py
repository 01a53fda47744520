"""With how many threads a step is computed on a CPU: found by trying, all the time.

The more the better holds on a quiet machine only. OpenMP's threads wait for each other at every operation, so one that
shares its core with the event loop, or with another program, holds up all of them: a step on two cores took 0.6 of one
thread's time with nothing beside it, and 1.4 of it beside a thread that was busy a fifth of the time. Which of the two
it is changes while a server runs, and with the number of tokens in a step, so neither a constant nor a trial at the
start would do.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

LONGEST_TRIAL = 0.25
"""Seconds of a step above which no other number is tried but the first: who waits for it would wait twice as long, and
of one that long most is multiplied, in operations that have time to wait for each other. So a smaller number that short
steps have chosen does not stand for long ones."""
EVERY, SELDOM = 40, 320
"""Steps of a size between two trials of another number of threads: a trial of twice the time costs a twentieth, so each
that changes nothing doubles them, up to 320, until steps take another time than they did."""
ALIKE = 0.8, 1.25
"""Of the time of a step at the last trial: what is outside is another time."""
TRIAL_STEPS = 2
"""Steps of a trial: the first one after a change also pays for the change."""
COMPARED = 4
"""Steps just before a trial whose fastest stands for the present choice: more than a trial has, so that of two that are
alike the present one stays."""
BETTER = 0.95
"""Of the present choice's time: what a trial must stay under to be taken."""

SPIN_ROUNDS = "10000"
"""How long OpenMP's threads spin for the next operation before they sleep: bench/LOG.md has what was measured."""
_SPIN, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
_set_here: list[str] = []
"""Variables of this process's environment that are ours and not its user's."""


def spin_briefly(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set libgomp's policy of waiting unless somebody has; it is read once, when torch is imported."""
    if _POLICY not in environ and _SPIN not in environ:
        environ[_SPIN] = SPIN_ROUNDS
        _set_here.append(_SPIN)


def without_our_policy(environ: Mapping[str, str]) -> dict[str, str]:
    """The same for a program that is not ours: with its user's policy of waiting, or none."""
    return {name: value for name, value in environ.items() if name not in _set_here}


def candidates(cores: int) -> tuple[int, ...]:
    """Numbers of threads worth trying, most first: all cores, one left to the event loop, half of them."""
    return tuple(sorted({n for n in (cores, cores - 1, cores // 2) if n >= 1}, reverse=True))


@dataclass
class _Size:
    """What is known of steps with about as many tokens."""

    choice: int
    """Place in the options."""
    since: int = 0
    """Steps since the last trial."""
    wait: int = EVERY
    """Steps until the next one."""
    tried: int = 0
    then: float = math.inf
    """What was the fastest of ``recent`` at the last trial."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=COMPARED))
    """Seconds a token of the last steps with the present choice."""
    option: int | None = None
    """What is being tried."""
    trial: list[float] = field(default_factory=list)


class ThreadChoice:
    """``options`` are numbers of threads; the first stands until another was faster."""

    def __init__(self, options: Sequence[int]) -> None:
        self._options = tuple(options)
        self._sizes: dict[int, _Size] = {}

    def threads(self, tokens: int) -> int:
        """For the coming step of so many tokens."""
        size = self._size(tokens)
        return self._options[size.choice if size.option is None else size.option]

    def took(self, tokens: int, seconds: float) -> None:
        """The step for which ``threads`` was asked is over."""
        size = self._size(tokens)
        each = seconds / max(1, tokens)
        if size.option is None:
            size.recent.append(each)
            size.since += 1
            if not ALIKE[0] < min(size.recent) / size.then < ALIKE[1]:
                size.wait = min(size.wait, EVERY)
            if size.since >= size.wait:
                size.option = self._next(size) if seconds <= LONGEST_TRIAL else 0 if size.choice else None
            return
        size.trial.append(each)
        if len(size.trial) == TRIAL_STEPS:
            size.wait = min(2 * size.wait, SELDOM)
            if min(size.trial) < BETTER * min(size.recent):
                size.choice, size.wait = size.option, EVERY
                size.recent.clear()
                size.recent += size.trial
            size.then, size.since, size.option = min(size.recent), 0, None
            size.trial.clear()

    def _next(self, size: _Size) -> int | None:
        """Another option to try, each in its turn; None: there is none."""
        others = [i for i in range(len(self._options)) if i != size.choice]
        size.tried += 1
        return others[size.tried % len(others)] if others else None

    def _size(self, tokens: int) -> _Size:
        return self._sizes.setdefault(max(1, tokens).bit_length(), _Size(choice=0))
