"""What two ways of batching are asked, and what they tell of how they served it."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

SPREAD = 1.0
"""Deviation of the logarithm of a length, for prompts and answers: our choice."""

Told = Callable[[int], None]
"""Called with the number of tokens that were just computed."""


class Ask(NamedTuple):
    """A prompt, and how many tokens its answer has. It arrives when the first request of all has ``after`` tokens."""

    prompt: list[int]
    answer: int
    after: int = 0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + self.answer


@dataclass
class Served:
    """How requests were served. Times are in seconds from the beginning; what sampling took is not in them."""

    tokens: list[list[int]]
    """Each request's answer."""
    times: list[list[float]]
    """When each of its tokens came."""
    arrived: list[float]
    running: list[int] = field(default_factory=list)
    """Requests of which a step computes something that was asked for. This and the following: of each step."""
    waiting: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    """Slots, each with room for one token's keys and values, that are set apart for the requests being served."""
    held: list[int] = field(default_factory=list)
    """Of these, the slots that have a token of theirs."""
    own: list[float] = field(default_factory=list)
    """Seconds of a step in which the model computed nothing; only of our engine."""

    @classmethod
    def nothing(cls, count: int) -> Served:
        return cls([[] for _ in range(count)], [[] for _ in range(count)], [0.0] * count)

    def sample(self, *, running: int, waiting: int, reserved: int, held: int) -> None:
        self.running.append(running)
        self.waiting.append(waiting)
        self.reserved.append(reserved)
        self.held.append(held)

    @property
    def seconds(self) -> float:
        return max(times[-1] for times in self.times)

    @property
    def rate(self) -> float:
        """Tokens of answers in a second, from the first arrival to the last token."""
        return sum(map(len, self.tokens)) / self.seconds

    @property
    def decode_rate(self) -> float:
        """Tokens in a second while every request decodes: from the last first token to the first end."""
        begin, end = max(times[0] for times in self.times), min(times[-1] for times in self.times)
        assert begin < end, f"requests never all decode: the last begins at {begin:.3f} s, the first ends at {end:.3f}"
        return sum(begin < at <= end for times in self.times for at in times) / (end - begin)

    @property
    def wastes(self) -> list[float]:
        """Of each step, the share of reserved slots that hold no token."""
        return [1 - held / reserved for held, reserved in zip(self.held, self.reserved, strict=True) if reserved]

    @property
    def waste(self) -> float:
        """Mean over the steps."""
        return statistics.fmean(self.wastes)

    @property
    def at_once(self) -> float:
        """Requests that run, mean over the steps in which others wait; if none ever waits, over all."""
        crowded = [running for running, waiting in zip(self.running, self.waiting, strict=True) if waiting]
        return statistics.fmean(crowded or self.running)

    def first_token(self, request: int) -> float:
        """Seconds from arrival."""
        return self.times[request][0] - self.arrived[request]

    def gaps(self, request: int) -> list[float]:
        """Seconds from each token to the next."""
        return [b - a for a, b in pairwise(self.times[request])]


class Stopwatch:
    """Seconds since it was made, without those spent ``stopped``."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        since = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - since


def tokens(rng: random.Random, count: int, vocabulary: int) -> list[int]:
    """Made-up ones; 0 is never among them."""
    return [rng.randint(1, vocabulary - 1) for _ in range(count)]


def lognormal(
    rng: random.Random, count: int, *, prompt_mean: float, answer_mean: float, max_len: int, vocabulary: int
) -> list[Ask]:
    """Requests of varied length that all arrive at once. A prompt has at most half of ``max_len``, prompt and answer
    together all of it."""
    found = []
    for _ in range(count):
        prompt = min(max_len // 2, _length(rng, prompt_mean))
        found.append(Ask(tokens(rng, prompt, vocabulary), min(max_len - prompt, _length(rng, answer_mean))))
    return found


def _length(rng: random.Random, mean: float) -> int:
    return max(2, round(rng.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)))


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]
