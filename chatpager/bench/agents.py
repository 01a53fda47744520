"""``chatpager bench agents``: what agents who take turns find of each other's prompts, in their frameworks.

Each pipeline runs as its users write it and with our helper; and with the helper once more against a server without a
cache, where nothing is found. What each call used is read from the server's database: it is the same for every client.
The model is the built-in one: what random weights say need not be text that a client can send back.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from chatpager.bench import machine, report, server
from chatpager.bench.agent_pipelines import PIPELINES, ROLES, Pipeline, installed
from chatpager.bench.text import fresh_text
from chatpager.demo import model_path
from chatpager.errors import ConfigError

MOST_CHARACTERS, MOST_ANSWER = 6000, 256
"""Of what all agents are told, and tokens of each answer: three of them and their instructions fit the model."""
PLAIN, SHARED, UNCACHED = "plain", "shared", "nothing cached"
SERVERS: dict[tuple[str, ...], tuple[str, ...]] = {(): (PLAIN, SHARED), ("--no-enable-prefix-caching",): (UNCACHED,)}
"""What is measured on a server with these flags."""


class Call(NamedTuple):
    """Tokens, and milliseconds to the first one of the answer."""

    prompt: int
    cached: int
    ttft_ms: float


def run(*, only: Sequence[str] | None, head: int, answer: int, rounds: int, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures. ``only``: frameworks, by name; None: those that are installed.

    Raises:
        ConfigError: a number cannot be measured, or a framework is not known, or not installed.
    """
    for name, value, most in (
        ("head", head, MOST_CHARACTERS),
        ("answer", answer, MOST_ANSWER),
        ("rounds", rounds, 100),
    ):
        if not 1 <= value <= most:
            raise ConfigError(name, f"must be between 1 and {most}", value=value)
    chosen = _chosen(only)
    console = Console()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in chosen}
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        for flags, layouts in SERVERS.items():
            data = Path(tempfile.mkdtemp(dir=temporary))
            with server.running(model_path(), data, *flags) as url:
                for name in chosen:
                    for layout in layouts:
                        with console.status(f"{name}, {layout}"):
                            calls = _measured(PIPELINES[name][0], url, data, layout, head, answer, rounds)
                        found[name][layout] = calls
    result = {
        "what": "three agents one after the other: of each, its prompt, what of it was cached, time to first token",
        "model": "the built-in one",
        "head_characters": head,
        "answer_tokens": answer,
        "rounds": rounds,
        "agents": list(ROLES),
        "frameworks": found,
        "machine": machine.describe(),
    }
    _print(console, result)
    report.save(result, out)
    return result


def _chosen(only: Sequence[str] | None) -> list[str]:
    here = [name for name, (_, packages) in PIPELINES.items() if installed(packages)]
    needs = "; ".join(f"{name} needs {' and '.join(packages)}" for name, (_, packages) in PIPELINES.items())
    for name in only or ():
        if name not in PIPELINES:
            raise ConfigError("only", f"must be some of {', '.join(PIPELINES)}", value=name)
    missing = [name for name in only or () if name not in here]
    if missing or not here:
        named = ", ".join(missing) or "no framework"
        raise ConfigError("only", f"not installed here: {named} ({needs})")
    return list(only or here)


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


def _measured(
    pipeline: Pipeline, url: str, data: Path, layout: str, head: int, answer: int, rounds: int
) -> list[dict[str, Any]]:
    """Of each agent, the medians; a first round is for warming up. All run on one event loop: a client that a framework
    keeps from an earlier one sends its first request twice."""

    async def all_rounds() -> None:
        for one in range(rounds + 1):
            rng = random.Random(f"{pipeline.__name__} {layout} {one}")
            await pipeline(url, fresh_text(rng, head), fresh_text(rng, 80), answer, layout != PLAIN)

    asyncio.run(all_rounds())
    calls = _calls(data)[-rounds * len(ROLES) :]
    return [_median(calls[agent :: len(ROLES)]) for agent in range(len(ROLES))]


def _calls(data: Path) -> list[Call]:
    with sqlite3.connect(f"file:{data / 'bench.db'}?mode=ro", uri=True) as c:
        rows = c.execute("select usage, timings from turns where usage is not null order by created_at, id")
        facts = [(json.loads(usage), json.loads(timings)) for usage, timings in rows]
    return [Call(usage["input_tokens"], usage["cached_tokens"], timings["ttft_ms"]) for usage, timings in facts]


def _median(calls: list[Call]) -> dict[str, Any]:
    prompt, cached, ttft = (statistics.median(values) for values in zip(*calls, strict=True))
    return {"prompt_tokens": prompt, "cached_tokens": cached, "cached": round(cached / prompt, 4), "ttft_ms": ttft}


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(title="three agents one after the other, on the built-in model")
    for column in ("framework", "agent", PLAIN, SHARED, UNCACHED, "first token, shared against uncached"):
        table.add_column(column)
    for name, layouts in result["frameworks"].items():
        for place, agent in enumerate(result["agents"]):
            cells = [layouts[layout][place] for layout in (PLAIN, SHARED, UNCACHED)]
            told = [f"{c['cached']:.0%} of {c['prompt_tokens']:,.0f}, {c['ttft_ms']:,.0f} ms" for c in cells]
            change = cells[1]["ttft_ms"] / cells[2]["ttft_ms"] - 1
            table.add_row(name if not place else "", agent, *told, f"{change:+.0%}")
    console.print(table)
