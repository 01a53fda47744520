"""``chatpager bench tiers``: a turn whose history is on the device, in host memory or on disk, against a cold one.

One conversation on one engine: its next turn is asked while all of its blocks are on the device, after host memory has
taken them, after only the disk has them, and after a restart; the system is told to forget what it keeps of the files
in memory. A cold prompt is as long and has never been seen. What is compared is the time from asking to the first
token.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chatpager.bench import machine, models, report
from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest, Usage
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

BLOCK = 16
NEW_TOKENS, ANSWER_TOKENS = 24, 4
BLOCKS_AT_ONCE = 64
SOURCES = ("device", "host", "disk", "restart", "cold")
"""Where a turn's history is, in the order in which they are measured."""
ROUND_TURNS = len(SOURCES) + 3
"""With the first one, and one for the start of each engine."""


class Turn(NamedTuple):
    """``ttft`` in seconds, the rest in tokens of the prompt."""

    ttft: float
    device: int
    host: int
    disk: int


def run(*, tokens: int, shape: str, rounds: int, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``tokens`` are those of the history.

    Raises:
        ConfigError: a number or the shape cannot be measured.
    """
    most = models.POSITIONS - NEW_TOKENS - ANSWER_TOKENS
    if not BLOCK <= tokens <= most:
        raise ConfigError("tokens", f"must be between {BLOCK} and {most}", value=tokens)
    if rounds < 1:
        raise ConfigError("rounds", "must be at least 1", value=rounds)
    with tempfile.TemporaryDirectory() as temporary, Progress() as progress:
        folder = Path(temporary)
        parameters = models.make_model(shape, folder)
        bar = progress.add_task("measuring", total=rounds * ROUND_TURNS)
        measure = Measure(folder, tokens, lambda: progress.advance(bar))
        turns = measure.rounds(rounds)
    result = _summary(turns, tokens, shape, parameters)
    _print(result)
    report.save(result, out)
    return result


class Measure:
    """``model`` is the folder of weights, in which the disk tier lives too. ``done`` is told of every turn."""

    def __init__(self, model: Path, tokens: int, done: Callable[[], None]) -> None:
        self._model, self._tokens, self._done = model, tokens, done
        self._rng = random.Random(7)
        self._asked = 0

    def rounds(self, count: int) -> dict[str, list[Turn]]:
        """The first tokens of a fresh engine come late, so one small request goes before."""
        found: dict[str, list[Turn]] = {source: [] for source in SOURCES}
        for n in range(count):
            engine = self._open()
            history, owner = self._fresh(engine, self._tokens), f"session {n}"
            self._ask(engine, history, owner)
            found["device"].append(self._go_on(engine, history, owner))
            self._push_out(engine)
            found["host"].append(self._go_on(engine, history, owner))
            self._push_out(engine)
            self._empty_host(engine)
            self._forget_files()
            found["disk"].append(self._go_on(engine, history, owner))
            engine.close()
            self._forget_files()
            engine = self._open()
            found["restart"].append(self._go_on(engine, history, owner))
            found["cold"].append(self._ask(engine, self._fresh(engine, len(history) + NEW_TOKENS), ""))
            engine.close()
        return found

    def _open(self) -> Engine:
        longest = self._tokens + NEW_TOKENS + ANSWER_TOKENS
        config = EngineConfig(
            model=str(self._model),
            dtype="float32",
            block_size=BLOCK,
            num_kv_blocks=2 * (-(-longest // BLOCK) + 2),
            max_model_len=longest,
            max_num_batched_tokens=1024,
            swap_space=machine.memory_gib() / 2,  # taken as it is needed
            kv_dir=str(self._model / "kv"),
            disk_space=machine.memory_gib() / 2,
            seed=1,
        )
        engine = Engine(config, ModelRunner(config))
        self._ask(engine, self._fresh(engine, 4 * BLOCK), "")
        return engine

    def _fresh(self, engine: Engine, count: int) -> list[int]:
        return [self._rng.randint(1, engine.runner.vocab_size - 1) for _ in range(count)]

    def _go_on(self, engine: Engine, history: list[int], owner: str) -> Turn:
        return self._ask(engine, [*history, *self._fresh(engine, NEW_TOKENS)], owner)

    def _ask(self, engine: Engine, prompt: list[int], owner: str) -> Turn:
        """A turn, and what is written to disk after it."""
        self._asked += 1
        request = AddRequest(
            request_id=str(self._asked),
            prompt_token_ids=prompt,
            params=SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True),
            owner=owner,
        )
        first: float | None = None
        usage: Usage | None = None
        began = time.monotonic()
        engine.add(request, began)
        while engine.has_work:
            for output in engine.step(time.monotonic):
                if output.token_ids and first is None:
                    first = time.monotonic()
                usage = output.usage or usage
        assert first is not None and usage is not None
        if engine.tiers is not None and engine.tiers.disk is not None:
            engine.tiers.disk.flush()
        self._done()
        device = usage.cached_tokens - usage.host_tokens - usage.disk_tokens
        return Turn(first - began, device, usage.host_tokens, usage.disk_tokens)

    def _push_out(self, engine: Engine) -> None:
        """Others needed all of the device, some blocks at a time, as prompts do."""
        taken: list[int] = []
        while left := engine.pool.available:
            taken += engine.cache.allocate(min(left, BLOCKS_AT_ONCE))
        engine.cache.free(taken)

    def _empty_host(self, engine: Engine) -> None:
        """And all of host memory."""
        assert engine.tiers is not None and engine.tiers.host is not None
        engine.tiers.host.clear()

    def _forget_files(self) -> None:
        """What is read next comes from the disk, as far as the system does what it is told."""
        for path in (self._model / "kv").glob("*/*"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _summary(turns: dict[str, list[Turn]], tokens: int, shape: str, parameters: int) -> dict[str, Any]:
    cold = statistics.median(turn.ttft for turn in turns["cold"])
    return {
        "what": "time to first token of a turn by where its history is, against a cold prompt of the same length",
        "shape": shape,
        "parameters": parameters,
        "history_tokens": tokens,
        "turns": {
            source: {
                "ttft_ms": [round(1000 * turn.ttft, 1) for turn in found],
                "of_cold": round(statistics.median(turn.ttft for turn in found) / cold, 4),
                "device_tokens": [turn.device for turn in found],
                "host_tokens": [turn.host for turn in found],
                "disk_tokens": [turn.disk for turn in found],
            }
            for source, found in turns.items()
        },
        "machine": machine.describe(),
    }


def _print(result: dict[str, Any]) -> None:
    title = f"{result['history_tokens']:,} tokens of history, {result['parameters'] / 1e6:.0f}M parameters"
    table = Table("history", "device", "host", "disk", "first token", "of cold", title=title)
    for source, facts in result["turns"].items():
        counts = [f"{statistics.median_low(facts[f'{tier}_tokens']):,}" for tier in ("device", "host", "disk")]
        table.add_row(source, *counts, f"{statistics.median(facts['ttft_ms']):,.0f} ms", f"{facts['of_cold']:.1%}")
    Console().print(table)
