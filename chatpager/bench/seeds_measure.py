"""What a row of ``bench seeds`` is measured with: sizes, weights, and both ways of batching in the same KV memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chatpager.bench import static_batching
from chatpager.bench.paged_batching import PagedBatching
from chatpager.bench.static_batching import StaticBatching
from chatpager.bench.workload import Ask, Served, Told, lognormal, tokens
from chatpager.engine import loader


@dataclass(frozen=True)
class Sizes:
    """Tokens, unless it says otherwise. Means of prompts and answers are those of ShareGPT in the vLLM paper."""

    max_len: int = 2048
    slots: int = 4
    """Reservations of ``max_len`` that the KV memory holds in the rows on memory and throughput."""
    requests: int = 64
    prompt_mean: int = 161
    answer_mean: int = 338
    history: int = 2000
    rounds: int = 3
    long: int = 16_384
    long_sequences: int = 2
    long_answer: int = 96
    decoders: int = 4
    decoder_answer: int = 256
    steady: int = 8
    """Sequences of the rows on jitter and block sizes."""
    steady_answer: int = 256
    block_sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    block_answer: int = 64
    short: int = 10
    short_requests: int = 30


QUICK = Sizes(
    max_len=64, slots=2, requests=8, prompt_mean=12, answer_mean=8, history=256, rounds=1, long=256, long_answer=8,
    decoders=2, decoder_answer=12, steady=2, steady_answer=20, block_answer=4, short=4, short_requests=2,
)  # fmt: skip


@dataclass
class Row:
    """``theirs``, ``ours`` and ``static`` are told in words; the figures behind them are in ``figures``."""

    key: str
    title: str
    theirs: str
    ours: str
    static: str
    why: str
    figures: dict[str, Any] = field(default_factory=dict)


class Measure:
    """What the rows need: the weights, the sizes, and somebody to tell of progress. ``watch`` is given what is measured
    and its tokens, and gives what is called with those computed."""

    def __init__(self, folder: Path, sizes: Sizes, watch: Callable[[str, int], Told]) -> None:
        self.sizes = sizes
        self._model = loader.load(folder, dtype="float32")
        self._baseline = static_batching.load(folder, self._model.device)
        self._vocabulary, self._watch = self._model.shape.vocab_size, watch
        self.rng = random.Random(7)

    def prompt(self, count: int) -> list[int]:
        return tokens(self.rng, count, self._vocabulary)

    def paged(self, max_len: int, kv_tokens: int, block_size: int = 16) -> PagedBatching:
        """Ready: its first steps, which take longer, are over."""
        engine = PagedBatching(self._model, max_len=max_len, kv_tokens=kv_tokens, block_size=block_size)
        engine.serve([Ask(self.prompt(8), 2), Ask(self.prompt(8), 2)])
        return engine

    def static(self, max_len: int, kv_tokens: int) -> StaticBatching:
        baseline = StaticBatching(self._baseline, max_len=max_len, kv_tokens=kv_tokens)
        baseline.serve([Ask(self.prompt(8), 2), Ask(self.prompt(8), 2)])
        return baseline

    def serve(self, engine: PagedBatching | StaticBatching, asks: list[Ask], what: str) -> Served:
        name = "chatpager" if isinstance(engine, PagedBatching) else "static"
        return engine.serve(asks, self._watch(f"{what}, {name}", sum(ask.tokens for ask in asks)))

    def both(self, asks: list[Ask], max_len: int, slots: int, what: str) -> tuple[Served, Served]:
        """(ours, static) of the same requests with the same KV memory."""
        ours = self.serve(self.paged(max_len, slots * max_len), asks, what)
        return ours, self.serve(self.static(max_len, slots * max_len), asks, what)

    @cached_property
    def mixed(self) -> tuple[Served, Served]:
        """(ours, static) of requests of varied length, all there at once."""
        s = self.sizes
        asks = self.varied(s.requests)
        return self.both(asks, s.max_len, s.slots, "varied requests")

    def varied(self, count: int) -> list[Ask]:
        s = self.sizes
        return lognormal(
            self.rng, count,
            prompt_mean=s.prompt_mean, answer_mean=s.answer_mean, max_len=s.max_len, vocabulary=self._vocabulary,
        )  # fmt: skip
