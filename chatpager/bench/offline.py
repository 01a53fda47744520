"""``chatpager bench offline``: many requests handed over at once, as an offline job does.

Ours beside two of transformers' own ways on the same weights: its continuous batching (paged attention by torch's
``sdpa``; its faster kernels would have to be downloaded) and its plain ``generate``, one request after the other, which
is given the first few of them. All are greedy, and each is asked for so many tokens of every answer.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from chatpager.bench import ceilings, machine, models, report
from chatpager.bench.workload import Ask, tokens
from chatpager.config import EngineConfig
from chatpager.engine import loader
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

BUSY_STEPS = 50
"""Of the profiled part: enough to see gaps, few enough for the profiler's memory."""
WAITS = " Sync", "Stream Wait Event"
"""How the profiler's names of a device's waits end."""


@dataclass(frozen=True)
class Options:
    """Prompts and answers have ``least`` to ``most`` tokens each, evenly; ``plain`` requests go to ``generate``, or
    none at all."""

    requests: int = 256
    least: int = 100
    most: int = 1024
    plain: int = 4
    at_once: int = 256
    shape: str = "qwen3-0.6b"
    dtype: str = "bfloat16"
    device: str = "cpu"
    peers: bool = True
    out: str | None = None


def run(options: Options) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        ConfigError: a number, the shape or the device cannot be measured.
    """
    _check(options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = models.make_model(options.shape, folder)
        asks = _asks(options, folder)
        rows = {"chatpager": _ours(options, folder, asks)}
        if options.peers:
            with _transformers(options, folder) as model:
                rows["continuous batching"] = _continuous(model, asks)
                if options.plain:
                    rows["generate, one by one"] = _one_by_one(model, asks[: options.plain])
    rate = rows["chatpager"]["tokens_per_s"]
    for name, row in rows.items():
        if name != "chatpager":
            row["ours_against_it"] = round(rate / row["tokens_per_s"], 2)
    where = torch.device(options.device)
    result = {
        "what": "many requests at once: output tokens a second, ours and transformers'",
        "shape": options.shape,
        "parameters": parameters,
        "dtype": options.dtype,
        "device": options.device,
        **ceilings.named(where),
        "requests": options.requests,
        "tokens": [options.least, options.most],
        "ways": rows,
        "machine": machine.describe(),
    }
    report.save(result, options.out)
    _print(result)
    return result


def _check(options: Options) -> None:
    for name, value, least in (
        ("requests", options.requests, 1),
        ("least", options.least, 2),
        ("most", options.most, options.least),
        ("plain", options.plain, 0),
        ("at_once", options.at_once, 1),
    ):
        if value < least:
            raise ConfigError(name, f"must be at least {least}", value=value)
    if options.dtype not in loader.DTYPES:
        raise ConfigError("dtype", f"must be one of {', '.join(loader.DTYPES)}", value=options.dtype)
    ceilings.check_device(options.device)


def _asks(options: Options, folder: Path) -> list[Ask]:
    rng, vocabulary = random.Random(1), loader.check(folder).shape.vocab_size

    def length() -> int:
        return rng.randint(options.least, options.most)

    return [Ask(tokens(rng, length(), vocabulary), length()) for _ in range(options.requests)]


def _figures(asks: list[Ask], seconds: float) -> dict[str, Any]:
    answers = sum(ask.answer for ask in asks)
    return {"requests": len(asks), "seconds": round(seconds, 2), "tokens_per_s": round(answers / seconds, 1)}


# -- ours -------------------------------------------------------------------------------------------------------------


def _ours(options: Options, folder: Path, asks: list[Ask]) -> dict[str, Any]:
    """The engine as a server has it, without a tier behind the device; one request comes before the clock runs."""
    config = EngineConfig(
        model=str(folder),
        dtype=options.dtype,
        device=options.device,
        max_model_len=2 * options.most,
        max_num_seqs=options.at_once,
        swap_space=0.0,
        seed=1,
    )
    runner = ModelRunner(config)
    engine = Engine(config, runner)
    _serve(engine, [Ask(asks[0].prompt[::-1], 4)], "first")
    began = time.perf_counter()
    steps = _serve(engine, asks, "timed")
    found = _figures(asks, time.perf_counter() - began)
    found["steps"] = steps
    if runner.model.device.type == "cuda":
        found["device_busy"] = round(_busy(engine, asks), 4)
    engine.close()
    return found


def _serve(engine: Engine, asks: list[Ask], name: str) -> int:
    """How many steps it took."""
    _add(engine, asks, name)
    steps = 0
    while engine.has_work:
        engine.step(time.monotonic)
        steps += 1
    return steps


def _add(engine: Engine, asks: list[Ask], name: str) -> None:
    for i, ask in enumerate(asks):
        params = SamplingParams(max_tokens=ask.answer, temperature=0.0, ignore_eos=True)
        engine.add(AddRequest(request_id=f"{name}/{i}", prompt_token_ids=ask.prompt, params=params), time.monotonic())


def _busy(engine: Engine, asks: list[Ask]) -> float:
    """Share of the time in which a kernel or a copy runs, over some steps in the middle of the same requests. The
    profiler costs the host time, so the true share is no smaller."""
    _add(engine, [Ask(ask.prompt[::-1], ask.answer) for ask in asks], "busy")  # backwards, or they were cached
    for _ in range(BUSY_STEPS):
        engine.step(time.monotonic)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(BUSY_STEPS):
            engine.step(time.monotonic)
        torch.cuda.synchronize()
    for i in range(len(asks)):
        engine.cancel(f"busy/{i}")
    while engine.has_work:
        engine.step(time.monotonic)
    return union(on_device(profile.events()))


def on_device(events: Iterable[Any]) -> list[tuple[float, float]]:
    """When the device computed or copied, of a profile's ``events``, in microseconds. Others are what the host called
    meanwhile, its waits among them, and when a stream waited."""
    return [
        (one.time_range.start, one.time_range.end)
        for one in events
        if one.device_type == DeviceType.CUDA and not one.name.endswith(WAITS)
    ]


def union(spans: list[tuple[float, float]]) -> float:
    """Share of the time between the first beginning and the last end that lies within any of ``spans``."""
    if not spans:
        return 0.0
    covered, reached = 0.0, min(start for start, _ in spans)
    first = reached
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - first) if reached > first else 1.0


# -- transformers' ----------------------------------------------------------------------------------------------------


@contextmanager
def _transformers(options: Options, folder: Path) -> Iterator[Any]:
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=loader.DTYPES[options.dtype], attn_implementation="sdpa", local_files_only=True
    )
    yield model.to(options.device).eval()


def _greedy(answer: int | None = None) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, max_new_tokens=answer, min_new_tokens=answer, eos_token_id=-1, pad_token_id=0
    )


def _continuous(model: Any, asks: list[Ask]) -> dict[str, Any]:
    """One request comes before the clock runs, as of ours: its thread, cache and kernels are there then."""
    with model.continuous_batching_context_manager(generation_config=_greedy()) as manager:
        manager.add_request(asks[0].prompt[::-1], max_new_tokens=4)
        _ended(manager)
        began = time.perf_counter()
        for ask in asks:
            manager.add_request(ask.prompt, max_new_tokens=ask.answer)
        answers = [_ended(manager) for _ in asks]
        found = _figures(asks, time.perf_counter() - began)
    told = sum(len(answer.generated_tokens) for answer in answers)
    if told != sum(ask.answer for ask in asks):
        raise RuntimeError(f"transformers told {told} tokens, not those that were asked for")
    return found


def _ended(manager: Any) -> Any:
    answer = manager.get_result()
    if answer is None or answer.error:
        raise RuntimeError(f"transformers' continuous batching ended: {answer and answer.error}")
    return answer


@torch.inference_mode()
def _one_by_one(model: Any, asks: list[Ask]) -> dict[str, Any]:
    def generate(ask: Ask) -> Any:
        prompt = torch.tensor([ask.prompt], device=model.device)
        return model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=_greedy(ask.answer))

    generate(Ask(asks[0].prompt, 2))
    began = time.perf_counter()
    for ask in asks:
        generate(ask).cpu()
    return _figures(asks, time.perf_counter() - began)


def _print(result: dict[str, Any]) -> None:
    way = Column("way", no_wrap=True)
    table = Table(way, "requests", "seconds", "tokens/s", "ours against it", "device busy", title=result["what"])
    for name, row in result["ways"].items():
        busy = f"{row['device_busy']:.1%}" if "device_busy" in row else "-"
        against = f"{row['ours_against_it']:.2f}" if "ours_against_it" in row else "-"
        table.add_row(name, f"{row['requests']:,}", f"{row['seconds']:,}", f"{row['tokens_per_s']:,}", against, busy)
    Console().print(table)
