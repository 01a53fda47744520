"""``chatpager bench isolation``: whether the time to a first token tells what another tenant has asked.

Each probe is timed on one engine right after another turn of as many tokens: in half of them that turn was the very
prompt of the probe, in half it was another. Across tenants the turn before has another salt, within one the same. How
well the times tell the halves apart is the area under the ROC curve: 0.5 is chance, 1 is every one. A salt that keeps
tenants apart gives chance across them; that the same times tell nearly all within one shows that they could.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from chatpager.bench import machine, models, report
from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest, Usage
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ChatpagerError, ConfigError

BLOCK = 16
MOST_TOKENS = 8192
PROBER, OTHER = b"tenant a", b"tenant b"
BEFORE = {"across": OTHER, "within": PROBER}
"""Whose turn the one before a probe is."""
SURE = 1.96
"""Standard deviations of chance that 95 % of measurements stay within."""


class Probe(NamedTuple):
    """``seen``: the prompt had been asked before. ``ttft`` in seconds."""

    where: str
    seen: bool
    ttft: float
    cached_tokens: int


def run(*, probes: int, tokens: int, shape: str, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures: ``probes`` across tenants and as many within one, each of ``tokens``.

    Raises:
        ConfigError: a number or the shape cannot be measured.
        ChatpagerError: a probe found blocks of another tenant.
    """
    for name, value, least, most in (("probes", probes, 4, 100_000), ("tokens", tokens, 2 * BLOCK, MOST_TOKENS)):
        if not least <= value <= most:
            raise ConfigError(name, f"must be between {least} and {most}", value=value)
    with tempfile.TemporaryDirectory() as temporary, Progress() as progress:
        parameters = models.make_model(shape, Path(temporary))
        bar = progress.add_task("probing", total=2 * probes)
        found = _measure(_engine(Path(temporary), tokens), probes, tokens, lambda: progress.advance(bar))
    result: dict[str, Any] = {
        "what": "time to first token as a classifier of whether a prompt had been asked before",
        "shape": shape,
        "parameters": parameters,
        "prompt_tokens": tokens,
        **{where: _summary([probe for probe in found if probe.where == where]) for where in BEFORE},
        "machine": machine.describe(),
    }
    report.save(result, out)
    _print(result)
    if foreign := result["across"]["cached_tokens"]:
        raise ChatpagerError(f"{foreign} tokens were found that another tenant had computed")
    return result


def _engine(folder: Path, tokens: int) -> Engine:
    """With room for a dozen prompts: what was asked a moment ago is on the device."""
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        block_size=BLOCK,
        num_kv_blocks=12 * (tokens // BLOCK + 2),
        max_model_len=tokens + BLOCK,
        max_num_batched_tokens=1024,
        swap_space=0.0,
        seed=1,
    )
    return Engine(config, ModelRunner(config))


def _measure(engine: Engine, probes: int, tokens: int, done: Callable[[], None]) -> list[Probe]:
    """In an order that nobody can guess, so that nothing but the cache differs between the halves."""
    rng = random.Random(11)
    order = [(where, i < probes // 2) for where in BEFORE for i in range(probes)]
    rng.shuffle(order)
    highest = engine.runner.vocab_size - 1

    def fresh() -> list[int]:
        return [rng.randint(1, highest) for _ in range(tokens)]

    _ask(engine, "warm-up", fresh(), PROBER)
    found = []
    for i, (where, seen) in enumerate(order):
        prompt = fresh()
        _ask(engine, f"before {i}", prompt if seen else fresh(), BEFORE[where])
        ttft, usage = _ask(engine, f"probe {i}", prompt, PROBER)
        found.append(Probe(where, seen, ttft, usage.cached_tokens))
        done()
    return found


def _ask(engine: Engine, name: str, prompt: list[int], salt: bytes) -> tuple[float, Usage]:
    """Seconds to the only token of the answer, and its account."""
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    began = time.monotonic()
    engine.add(AddRequest(request_id=name, prompt_token_ids=prompt, params=params, salt=salt), began)
    while True:
        for output in engine.step(time.monotonic):
            if output.finish_reason:
                assert output.usage is not None
                return time.monotonic() - began, output.usage


def auc(seen: Sequence[float], unseen: Sequence[float]) -> float:
    """How often one of ``seen`` is faster than one of ``unseen``, a draw counting half."""
    slower = sorted(unseen)
    won = sum(2 * len(slower) - bisect_left(slower, t) - bisect_right(slower, t) for t in seen)
    return won / (2 * len(seen) * len(slower))


def _summary(probes: list[Probe]) -> dict[str, Any]:
    seen, unseen = ([p.ttft for p in probes if p.seen is wanted] for wanted in (True, False))
    deviation = math.sqrt((len(probes) + 1) / (12 * len(seen) * len(unseen)))
    return {
        "probes": len(probes),
        "auc": round(auc(seen, unseen), 4),
        "chance": [round(0.5 + sign * SURE * deviation, 4) for sign in (-1, 1)],
        "seen_ttft_ms": _quartiles(seen),
        "unseen_ttft_ms": _quartiles(unseen),
        "cached_tokens": sum(p.cached_tokens for p in probes),
        "seen_tokens": sum(p.cached_tokens for p in probes if p.seen),
    }


def _quartiles(seconds: list[float]) -> list[float]:
    ordered = sorted(seconds)
    return [round(1000 * ordered[int(q * (len(ordered) - 1))], 2) for q in (0.25, 0.5, 0.75)]


def _print(result: dict[str, Any]) -> None:
    for where, words in (("across", "across tenants"), ("within", "within one tenant")):
        facts = result[where]
        low, high = facts["chance"]
        told = (
            f"{words}: AUC {facts['auc']:.3f} of {facts['probes']} probes of {result['prompt_tokens']} tokens (chance: "
            f"{low:.3f} to {high:.3f}); median {facts['seen_ttft_ms'][1]:.1f} ms asked before, "
            f"{facts['unseen_ttft_ms'][1]:.1f} ms not; {facts['cached_tokens']:,} tokens cached"
        )
        Console(soft_wrap=True).print(Text(told))
