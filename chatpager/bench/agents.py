"""``chatpager bench agents``: what agents who take turns find of each other's prompts, in their frameworks.

Each pipeline runs as its users write it and with our helper; and with the helper once more against a server without a
cache, where nothing is found. What each call used is read from the server's database: it is the same for every client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from chatpager.bench import machine, models, server
from chatpager.bench.agent_pipelines import PIPELINES, ROLES, Pipeline, installed
from chatpager.bench.text import fresh_text
from chatpager.errors import ConfigError

FLAGS = ("--max-model-len", "8192", "--num-kv-blocks", "4096")
LAYOUTS = ("plain", "shared", "nothing cached")


class Call(NamedTuple):
    """Tokens, and milliseconds to the first one of the answer."""

    prompt: int
    cached: int
    ttft_ms: float


def run(*, head: int, answer: int, rounds: int, shape: str, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``head``: characters of what all agents are told.

    Raises:
        ConfigError: a number or the shape cannot be measured, or no framework is installed.
    """
    for name, value, most in (("head", head, 12_000), ("answer", answer, 512), ("rounds", rounds, 100)):
        if not 1 <= value <= most:
            raise ConfigError(name, f"must be between 1 and {most}", value=value)
    found = {name: pipeline for name, (pipeline, packages) in PIPELINES.items() if installed(packages)}
    if not found:
        needs = "; ".join(f"{name} needs {' and '.join(packages)}" for name, (_, packages) in PIPELINES.items())
        raise ConfigError("agents", f"no framework is installed here: {needs}")
    console = Console()
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        folder = Path(temporary) / f"random-{shape}"
        parameters = models.make_model(shape, folder)
        rows = []
        for name, pipeline in found.items():
            with console.status(f"measuring {name}"):
                rows.append({"framework": name, **_measured(pipeline, folder, Path(temporary), head, answer, rounds)})
    result = {
        "what": "three agents one after the other: of each, its prompt, what of it was cached, time to first token",
        "shape": shape,
        "parameters": parameters,
        "head_characters": head,
        "answer_tokens": answer,
        "rounds": rounds,
        "agents": list(ROLES),
        "rows": rows,
        "machine": machine.describe(),
    }
    _print(console, result)
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Frameworks say much that is nobody's concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _measured(pipeline: Pipeline, model: Path, folder: Path, head: int, answer: int, rounds: int) -> dict[str, Any]:
    found = {}
    for layout in LAYOUTS:
        data = Path(tempfile.mkdtemp(dir=folder))
        flags = (*FLAGS, "--no-enable-prefix-caching") if layout == "nothing cached" else FLAGS
        with server.running(model, data, *flags) as url:
            for one in range(rounds + 1):  # the first is for warming up
                rng = random.Random(one)
                told, asked = fresh_text(rng, head), fresh_text(rng, 80)
                asyncio.run(pipeline(url, told, asked, answer, layout != "plain"))
            calls = _calls(data / "bench.db")[len(ROLES) :]
        found[layout] = [_median(calls[agent :: len(ROLES)]) for agent in range(len(ROLES))]
    return found


def _calls(database: Path) -> list[Call]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as c:
        ended = "status in ('completed', 'incomplete')"
        rows = c.execute(f"select usage, timings from turns where {ended} order by created_at")  # noqa: S608
        facts = [(json.loads(usage), json.loads(timings)) for usage, timings in rows]
    return [Call(usage["input_tokens"], usage["cached_tokens"], timings["ttft_ms"]) for usage, timings in facts]


def _median(calls: list[Call]) -> dict[str, Any]:
    prompt, cached, ttft = (statistics.median(values) for values in zip(*calls, strict=True))
    return {"prompt_tokens": prompt, "cached_tokens": cached, "shared": round(cached / prompt, 4), "ttft_ms": ttft}


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"{len(ROLES)} agents one after the other; {result['parameters'] / 1e6:.0f}M parameters")
    for column in ("framework", "agent", *LAYOUTS, "time to first token"):
        table.add_column(column)
    for row in result["rows"]:
        for place, agent in enumerate(result["agents"]):
            cells = [row[layout][place] for layout in LAYOUTS]
            told = [f"{c['shared']:.0%} of {c['prompt_tokens']:,.0f}, {c['ttft_ms']:,.0f} ms" for c in cells]
            change = cells[1]["ttft_ms"] / cells[2]["ttft_ms"] - 1
            table.add_row(row["framework"] if not place else "", agent, *told, f"{change:+.0%}")
    console.print(table)
