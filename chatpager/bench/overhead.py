"""``chatpager bench overhead``: what a step costs beside the model, with many sequences decoding.

Scheduling, blocks, names, leases, outputs and the step's tensors are the engine's own work; what the model and the
sampling take is timed apart, so the figure can be set against a step of any hardware.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.text import Text

from chatpager.bench import machine, models, report
from chatpager.bench.workload import p99
from chatpager.config import EngineConfig
from chatpager.engine.batch import Batch
from chatpager.engine.engine import Engine
from chatpager.engine.heads import Strength
from chatpager.engine.messages import AddRequest, LeaseRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampler import Sampled
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

BLOCK = 16
PROMPT_TOKENS = 64
MOST_SEQUENCES = 1024


def run(*, sequences: int, steps: int, shape: str, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; every sequence is the second turn of a session that has a soft lease.

    Raises:
        ConfigError: a number or the shape cannot be measured.
    """
    for name, value, least, most in (("sequences", sequences, 1, MOST_SEQUENCES), ("steps", steps, 2, 10_000)):
        if not least <= value <= most:
            raise ConfigError(name, f"must be between {least} and {most}", value=value)
    with tempfile.TemporaryDirectory() as temporary:
        parameters = models.make_model(shape, Path(temporary))
        whole, model, leases = measure(*_engine(Path(temporary), sequences, steps), sequences, steps)
    own = [all_of_it - models_part for all_of_it, models_part in zip(whole, model, strict=True)]
    result = {
        "what": "a step's time beside the model's, all sequences decoding one token",
        "shape": shape,
        "parameters": parameters,
        "sequences": sequences,
        "steps": len(own),
        "own_ms": {"p50": _ms(statistics.median(own)), "p99": _ms(p99(own))},
        "step_ms": {"p50": _ms(statistics.median(whole))},
        "own_of_step": round(sum(own) / sum(whole), 4),
        "leases": leases,
        "machine": machine.describe(),
    }
    _print(result)
    report.save(result, out)
    return result


def _engine(folder: Path, sequences: int, steps: int) -> tuple[Engine, ModelRunner]:
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        block_size=BLOCK,
        num_kv_blocks=sequences * (-(-longest(steps) // BLOCK) + 1) + 64,
        max_model_len=longest(steps),
        max_num_batched_tokens=max(1024, sequences),
        max_num_seqs=sequences,
        step_seconds=0.0,  # or the first ones would be through before the last ones' prompts are
        swap_space=0.0,
        num_threads=torch.get_num_threads(),
        seed=1,
        overlap="off",  # or its parts could not be timed one by one
    )
    runner = ModelRunner(config)
    return Engine(config, runner), runner


def longest(steps: int) -> int:
    """Tokens that a sequence has at the end of ``measure``."""
    return 2 * PROMPT_TOKENS + steps + 8


def measure(engine: Engine, runner: ModelRunner, sequences: int, steps: int) -> tuple[list[float], list[float], int]:
    """Seconds of each step, and of the model in it; and the leases that stood. ``runner`` is the engine's, which keeps
    nothing of ours but its cache."""
    compute, spent = runner.compute, [0.0]

    def timed(batch: Batch) -> list[Sampled]:
        began = time.perf_counter()
        try:
            return compute(batch)
        finally:
            spent[0] = time.perf_counter() - began

    runner.compute = timed  # type: ignore[method-assign]
    _ask(engine, sequences, PROMPT_TOKENS, 1)
    while engine.has_work:
        engine.step(time.monotonic)
    for i in range(sequences):
        engine.lease(LeaseRequest(owner=f"session {i}", strength=Strength.SOFT, ttl=600.0), time.monotonic())
    _ask(engine, sequences, 2 * PROMPT_TOKENS, steps + 4)
    while any(seq.remaining > 1 for seq in engine.scheduler.running) or engine.scheduler.waiting:
        engine.step(time.monotonic)
    whole, model = [], []
    for _ in track(range(min(steps, _left(engine))), "measuring"):
        began = time.perf_counter()
        engine.step(time.monotonic)
        whole.append(time.perf_counter() - began)
        model.append(spent[0])
    runner.compute = compute  # type: ignore[method-assign]
    return whole, model, sum(bool(head.leases) for head in engine.leases.heads.values())


def _ask(engine: Engine, sequences: int, tokens: int, answer: int) -> None:
    """A turn of every session; each has a prompt of its own, of which a longer one has the same beginning."""
    for i in range(sequences):
        rng = random.Random(i)
        request = AddRequest(
            request_id=f"{i}/{tokens}",
            prompt_token_ids=[rng.randint(1, engine.runner.vocab_size - 1) for _ in range(tokens)],
            params=SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True),
            owner=f"session {i}",
        )
        engine.add(request, time.monotonic())


def _left(engine: Engine) -> int:
    """Steps in which every sequence decodes."""
    return min(seq.max_length - len(seq) for seq in engine.scheduler.running) - 1


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _print(result: dict[str, Any]) -> None:
    own, step = result["own_ms"], result["step_ms"]
    told = (
        f"{result['sequences']} sequences decoding, {result['leases']} leases, "
        f"{result['parameters'] / 1e6:.0f}M parameters: "
        f"the engine's own work {own['p50']:.2f} ms a step (p99 {own['p99']:.2f} ms) "
        f"of {step['p50']:.1f} ms: {result['own_of_step']:.1%}"
    )
    Console().print(Text(told))
