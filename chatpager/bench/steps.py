"""``chatpager bench engine``: steps of the engine against the least time that the machine allows them.

A decode step reads the weights and the KV of its contexts, a prefill multiplies: whichever takes longer at the measured
ceilings is the floor. The model's steps are timed without a scheduler; what the engine adds is measured beside them.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import ceilings, machine, models, overhead, plot, report
from chatpager.bench.ceilings import Ceilings
from chatpager.config import EngineConfig
from chatpager.engine import loader
from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.engine import Engine
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.sequence import Sequence
from chatpager.errors import ConfigError

BLOCK = 16
GREEDY = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


@dataclass(frozen=True)
class Options:
    """``step_tokens``: the most tokens of a prefill step; ``kv_gib``: the most memory for contexts."""

    shape: str = "160m"
    batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    contexts: tuple[int, ...] = (128, 2048)
    steps: int = 10
    step_tokens: int = 8192
    kv_gib: float = 4.0
    dtype: str = "auto"
    device: str = "auto"
    out: str | None = None


def run(options: Options) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        ConfigError: a number, the shape or the device cannot be measured.
    """
    for name, values, least in (
        ("batches", options.batches, 1),
        ("contexts", options.contexts, 2),
        ("steps", (options.steps,), 2),
        ("step_tokens", (options.step_tokens,), 1),
    ):
        if (lowest := min(values, default=0)) < least:
            raise ConfigError(name, f"must be at least {least}", value=lowest)
    if not options.kv_gib > 0:
        raise ConfigError("kv_gib", "must be above 0", value=options.kv_gib)
    if options.dtype not in ("auto", *loader.DTYPES):
        raise ConfigError("dtype", f"must be one of auto, {', '.join(loader.DTYPES)}", value=options.dtype)
    ceilings.check_device(options.device, "auto")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = models.make_model(options.shape, folder)
        runner = _runner(options, folder)
        most = ceilings.measure(runner.model.device, runner.model.dtype)
        cells = [_cell(options, runner, parameters, most, *where) for where in track(_grid(options), "measuring")]
        host = [_host(options, runner, batch) for batch in track(options.batches, "the engine's own work")]
    result = {
        "what": "steps of the model against the floor: bytes over read bandwidth, or operations over a matmul's peak",
        "shape": options.shape,
        "parameters": parameters,
        "dtype": str(runner.model.dtype).removeprefix("torch."),
        "device": runner.model.device.type,
        **ceilings.named(runner.model.device),
        "threads": torch.get_num_threads(),
        "read_gb_per_s": round(most.read_bytes_per_s / 1e9, 2),
        "matmul_tflops": round(most.flops_per_s / 1e12, 4),
        "cells": cells,
        "engine": host,
        "machine": machine.describe(),
    }
    report.save(result, options.out, _charts(result))
    _print(result)
    return result


def _grid(options: Options) -> list[tuple[str, int, int]]:
    return [(kind, b, c) for kind in ("decode", "prefill") for c in options.contexts for b in options.batches]


def _blocks(batch: int, context: int) -> int:
    return batch * -(-context // BLOCK)


def _runner(options: Options, folder: Path) -> ModelRunner:
    """With a pool for the largest cell that ``kv_gib`` holds, and for the engine's own measurement."""
    checked = loader.check(folder)
    dtype = checked.config.dtype if options.dtype == "auto" else loader.DTYPES[options.dtype]
    room = int(options.kv_gib * (1 << 30)) // (checked.shape.bytes_per_token(dtype.itemsize) * BLOCK)
    longest = max(*options.contexts, 2 * overhead.PROMPT_TOKENS + options.steps + BLOCK)
    batch = max(options.batches)
    wanted = max([_blocks(b, c) for b in options.batches for c in options.contexts if _blocks(b, c) <= room] or [0])
    engine = max(_blocks(b, overhead.longest(options.steps)) + b + 64 for b in options.batches)
    config = EngineConfig(
        model=str(folder),
        dtype=options.dtype,
        device=options.device,
        block_size=BLOCK,
        num_kv_blocks=max(wanted, engine, -(-longest // BLOCK) + 2) + 2,
        max_model_len=longest,
        max_num_batched_tokens=max(options.step_tokens, batch, 1024),
        max_num_seqs=batch,
        step_seconds=0.0,
        swap_space=0.0,
        num_threads=torch.get_num_threads(),  # no trial of another number in the middle
        seed=1,
    )
    return ModelRunner(config)


@torch.inference_mode()
def _cell(
    options: Options, runner: ModelRunner, parameters: int, most: Ceilings, kind: str, batch: int, context: int
) -> dict[str, Any]:
    """Milliseconds of one step (median and best) and its floor; or why it was not measured."""
    cell: dict[str, Any] = {"kind": kind, "batch": batch, "context": context}
    if _blocks(batch, context) > runner.num_blocks - 1:
        return {**cell, "skipped": "its KV is more than --kv-gib"}
    if kind == "prefill" and batch * context > options.step_tokens:
        return {**cell, "skipped": "more tokens than --step-tokens"}
    plan = _plan(runner, kind, batch, context)
    device = runner.model.device
    runner.run(plan)
    seconds = [ceilings.timed(device, lambda: runner.run(plan)) for _ in range(options.steps)]
    floor, bound = most.floor(*work(runner, parameters, kind, batch, context))
    median = statistics.median(seconds)
    return {
        **cell,
        "ms": round(1000 * median, 4),
        "best_ms": round(1000 * min(seconds), 4),
        "floor_ms": round(1000 * floor, 4),
        "bound": bound,
        "of_floor": round(floor / median, 4),
        "tokens_per_s": round((batch if kind == "decode" else batch * context) / median, 1),
    }


def _plan(runner: ModelRunner, kind: str, batch: int, context: int) -> Plan:
    """Every sequence has blocks of its own, in no order, full of random numbers."""
    rng = random.Random(3)
    blocks = list(range(1, _blocks(batch, context) + 1))
    rng.shuffle(blocks)
    for pages in (*runner.cache.keys, *runner.cache.values):
        pages[: len(blocks) + 1].normal_()
    each = len(blocks) // batch
    hasher = BlockHasher([], BLOCK)
    plan = Plan()
    for i in range(batch):
        ids = [rng.randrange(1, runner.vocab_size) for _ in range(context)]
        seq = Sequence(f"{i}", ids, GREEDY, hasher, max_length=context + 1)
        seq.block_table = blocks[i * each : (i + 1) * each]
        seq.committed = context - 1 if kind == "decode" else 0
        plan.rows.append(Row(seq, context - seq.committed, [seq]))
    return plan


def work(runner: ModelRunner, parameters: int, kind: str, batch: int, context: int) -> tuple[float, float]:
    """Bytes that a step must read or write at least, and operations (two a multiplication), of a dense model.

    ``parameters`` are those of its files: a loaded model's linears keep their weights in forms of their own.
    """
    config = runner.model.config
    size = runner.model.dtype.itemsize
    head = config.vocab_size * config.hidden_size
    body = parameters - head if config.tie_word_embeddings else parameters - 2 * head
    kv = batch * context * runner.shape.bytes_per_token(size)
    dots = 4 * runner.shape.layers * config.num_attention_heads * runner.shape.head_dim
    if kind == "decode":
        tokens, pairs = batch, batch * context
    else:
        tokens, pairs = batch * context, batch * context * (context + 1) // 2
    return (body + head) * size + kv, 2.0 * body * tokens + 2.0 * head * batch + float(dots) * pairs


def _host(options: Options, runner: ModelRunner, batch: int) -> dict[str, Any]:
    """What the engine adds to a decode step, and the share of the time in which the model runs; on a GPU also what a
    step takes when it is launched while the one before runs."""
    engine = Engine(replace(runner.config, max_num_seqs=batch, overlap="off"), runner)
    whole, model, _ = overhead.measure(engine, runner, batch, options.steps)
    own = [step - part for step, part in zip(whole, model, strict=True)]
    overlapped: dict[str, float] = {}
    if runner.is_apart:
        engine = Engine(replace(runner.config, max_num_seqs=batch, overlap="on"), runner)
        steps, _, _ = overhead.measure(engine, runner, batch, options.steps)
        overlapped["overlapped_ms"] = round(1000 * statistics.median(steps), 4)
    return {
        **overlapped,
        "batch": batch,
        "own_ms": round(1000 * statistics.median(own), 4),
        "step_ms": round(1000 * statistics.median(whole), 4),
        "model_share": round(sum(model) / sum(whole), 4),
    }


def _print(result: dict[str, Any]) -> None:
    console = Console()
    title = (
        f"{result['shape']}, {result['parameters'] / 1e6:,.0f}M parameters, {result['dtype']} on {result['device']}: "
        f"reads {result['read_gb_per_s']:,} GB/s, multiplies at {result['matmul_tflops']:,} TFLOP/s"
    )
    table = Table("step", "batch", "context", "median", "floor", "of the floor", "tokens/s", title=title)
    for cell in result["cells"]:
        where = (cell["kind"], str(cell["batch"]), f"{cell['context']:,}")
        if reason := cell.get("skipped"):
            table.add_row(*where, reason)
            continue
        floor = f"{cell['floor_ms']:,.2f} ms ({cell['bound']})"
        table.add_row(*where, f"{cell['ms']:,.2f} ms", floor, f"{cell['of_floor']:.1%}", f"{cell['tokens_per_s']:,.0f}")
    console.print(table)
    columns = "batch", "step", "engine's own", "the model runs", "overlapped"
    table = Table(*columns, title="decoding through the engine")
    for row in result["engine"]:
        step, own = f"{row['step_ms']:,.2f} ms", f"{row['own_ms']:,.3f} ms"
        overlapped = f"{row['overlapped_ms']:,.2f} ms" if "overlapped_ms" in row else "-"
        table.add_row(str(row["batch"]), step, own, f"{row['model_share']:.1%}", overlapped)
    console.print(table)


def _charts(result: dict[str, Any]) -> list[str]:
    charts = []
    contexts = sorted({cell["context"] for cell in result["cells"]})
    for kind in ("decode", "prefill"):
        for context in contexts:
            cells = _measured(result["cells"], kind, context)
            if cells:
                series = {"measured": [c["ms"] for c in cells], "floor": [c["floor_ms"] for c in cells]}
                places = [f"{c['batch']} sequences" for c in cells]
                charts.append(plot.lines(f"One {kind} step, {context:,} tokens each", places, series, " ms"))
    own = {f"{row['batch']} sequences": row["own_ms"] for row in result["engine"]}
    return [*charts, plot.bars("The engine's own work in a decode step", own, " ms")]


def _measured(cells: Many[dict[str, Any]], kind: str, context: int) -> list[dict[str, Any]]:
    return [c for c in cells if (c["kind"], c["context"]) == (kind, context) and "skipped" not in c]
