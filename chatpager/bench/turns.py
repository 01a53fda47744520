"""The second turn against a cold one: over the WebSocket, by the client's clock, in one run.

A round opens two sessions. One sends a history of the wanted length and then a short second turn, which finds the
history in the cache. The other sends, at once and for the first time, a prompt as long as that second turn's. What is
compared is the time from sending to the first piece of text.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.text import Text

from chatpager.bench import machine, models, report, server
from chatpager.bench.text import fresh_text
from chatpager.client import AsyncClient, Reply, Session
from chatpager.errors import ConfigError

ANSWER_TOKENS = 16
SAMPLE_CHARACTERS = 600
BESIDE_HISTORY = 1024
"""Tokens of the context that are left to the turns after the history."""


class Turn(NamedTuple):
    ttft: float
    """Seconds."""
    prompt_tokens: int
    cached_tokens: int


def run(*, history: int, shape: str, rounds: int, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``history`` is in tokens.

    Raises:
        ConfigError: a number or the shape cannot be measured.
    """
    most = models.POSITIONS - BESIDE_HISTORY
    if not 1 <= history <= most:
        raise ConfigError("history", f"must be between 1 and {most}", value=history)
    if rounds < 1:
        raise ConfigError("rounds", "must be at least 1", value=rounds)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary) / f"random-{shape}", Path(temporary) / "data"
        data.mkdir()
        with console.status(Text(f"making a random model of shape {shape}")):
            parameters = models.make_model(shape, folder)
        with (
            console.status("starting the server"),
            server.running(folder, data, "--max-model-len", str(history + BESIDE_HISTORY)) as url,
        ):
            pairs = asyncio.run(_measure(url, history, rounds, models.letter(folder)))
    result = _summary(pairs, history, shape, parameters)
    _print(console, result)
    report.save(result, out)
    return result


async def _measure(url: str, history: int, rounds: int, letter: int) -> list[tuple[Turn, Turn]]:
    """``letter`` is a token that every answer is made of: a random model's own choice may have no text."""
    rng = random.Random(7)
    wish = {"max_output_tokens": ANSWER_TOKENS, "temperature": 0, "logit_bias": {letter: 100}}
    async with AsyncClient(url) as client:
        for _ in range(3):
            await _turn(await client.session(), fresh_text(rng, 400), wish)
        sample = await _turn(await client.session(), fresh_text(rng, SAMPLE_CHARACTERS), wish)
        per_token = SAMPLE_CHARACTERS / sample.prompt_tokens
        pairs = []
        for _ in track(range(rounds), "measuring"):
            session = await client.session()
            await _turn(session, fresh_text(rng, int(history * per_token)), wish)
            warm = await _turn(session, "And then?", wish)
            cold = await _turn(await client.session(), fresh_text(rng, int(warm.prompt_tokens * per_token)), wish)
            pairs.append((warm, cold))
    return pairs


async def _turn(session: Session, text: str, wish: dict[str, Any]) -> Turn:
    began = time.perf_counter()
    first = None
    async with session.send(text, **wish) as answer:
        async for _ in answer:
            first = first or time.perf_counter()
    reply: Reply = answer.reply
    if first is None:
        raise RuntimeError(f"the answer was {reply.status} and had no text: {reply.error}")
    return Turn(first - began, reply.input_tokens, reply.cached_tokens)


def _summary(pairs: list[tuple[Turn, Turn]], history: int, shape: str, parameters: int) -> dict[str, Any]:
    ratios = [warm.ttft / cold.ttft for warm, cold in pairs]
    return {
        "what": "time to first token of a second turn over a history, against a cold prompt of the same length",
        "shape": shape,
        "parameters": parameters,
        "history_tokens": history,
        "warm_ttft_ms": [round(1000 * warm.ttft, 1) for warm, _ in pairs],
        "cold_ttft_ms": [round(1000 * cold.ttft, 1) for _, cold in pairs],
        "prompt_tokens": [[warm.prompt_tokens, cold.prompt_tokens] for warm, cold in pairs],
        "cached_tokens": [[warm.cached_tokens, cold.cached_tokens] for warm, cold in pairs],
        "ratio": round(statistics.median(ratios), 4),
        "ratio_worst": round(max(ratios), 4),
        "machine": machine.describe(),
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    warm, cold = statistics.median(result["warm_ttft_ms"]), statistics.median(result["cold_ttft_ms"])
    told = (
        f"{result['parameters'] / 1e6:.0f}M parameters, {result['history_tokens']} tokens of history, "
        f"{len(result['warm_ttft_ms'])} rounds on {result['machine']['cpu']}, {result['machine']['cores']} cores\n"
        f"time to first token: second turn {warm:.0f} ms, cold {cold:.0f} ms (medians)\n"
        f"ratio {result['ratio']:.1%}, at worst {result['ratio_worst']:.1%}"
    )
    console.print(Text(told))
