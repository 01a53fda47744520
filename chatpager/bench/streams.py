"""``chatpager bench streams``: what many WebSocket streams cost on top of the engine that computes them.

The same requests are served twice a round: by a server, to as many sessions over WebSockets at once, and by an engine
in this process, stepped until it has nothing left. Both have the same model, settings and policy of threads; while one
is measured the other has nothing to do, and which comes first changes from round to round. Neither keeps KV blocks on a
disk. The client's work is part of the first: it runs on the same cores, and how much of them it had is told.
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
from chatpager.client import AsyncClient, Session
from chatpager.config import EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

MOST_STREAMS = 256
MAX_MODEL_LEN = 4096
BATCHED_TOKENS = 1024
KV_BLOCKS = 16_384
SAMPLE_CHARACTERS = 256


class Round(NamedTuple):
    """Seconds."""

    served: float
    bare: float
    client_cpu: float
    """Of this process while it was served: it shares the machine with the server."""


def run(*, streams: int, prompt: int, answer: int, rounds: int, shape: str, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``prompt`` and ``answer`` are tokens of each stream.

    Raises:
        ConfigError: a number or the shape cannot be measured.
    """
    limits = (("streams", streams, MOST_STREAMS), ("rounds", rounds, 100))
    for name, value, most in (*limits, ("prompt", prompt, MAX_MODEL_LEN // 2), ("answer", answer, MAX_MODEL_LEN // 4)):
        if not 1 <= value <= most:
            raise ConfigError(name, f"must be between 1 and {most}", value=value)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary) / f"random-{shape}", Path(temporary) / "data"
        data.mkdir()
        parameters = models.make_model(shape, folder)
        engine = _engine(folder)
        with (
            console.status("starting the server"),
            server.running(folder, data, *_flags()) as url,
        ):
            rounds_s = asyncio.run(_measure(url, engine, streams, prompt, answer, rounds))
    served, bare, client = (statistics.median(times) for times in zip(*rounds_s, strict=True))
    overheads = [one.served / one.bare - 1 for one in rounds_s]
    result = {
        "what": "seconds for all answers: streamed over WebSockets, and from the engine alone",
        "shape": shape,
        "parameters": parameters,
        "streams": streams,
        "prompt_tokens": prompt,
        "answer_tokens": answer,
        "served_s": [round(one.served, 3) for one in rounds_s],
        "engine_s": [round(one.bare, 3) for one in rounds_s],
        "client_cpu_s": [round(one.client_cpu, 3) for one in rounds_s],
        "tokens_per_s": {"served": round(streams * answer / served, 1), "engine": round(streams * answer / bare, 1)},
        "overheads": [round(one, 4) for one in overheads],
        "overhead": round(statistics.median(overheads), 4),
        "client_share": round(client / served, 4),
        "machine": machine.describe(),
    }
    _print(console, result)
    report.save(result, out)
    return result


def _flags() -> list[str]:
    return [
        *("--max-model-len", str(MAX_MODEL_LEN)),
        *("--max-num-batched-tokens", str(BATCHED_TOKENS)),
        *("--num-kv-blocks", str(KV_BLOCKS)),
        *("--disk-space", "0"),
    ]


def _engine(folder: Path) -> Engine:
    config = EngineConfig(
        model=str(folder),
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=BATCHED_TOKENS,
        num_kv_blocks=KV_BLOCKS,
        seed=1,
    )
    return Engine(config, ModelRunner(config))


async def _measure(url: str, engine: Engine, streams: int, prompt: int, answer: int, rounds: int) -> list[Round]:
    """A first round, of few tokens, is for warming up."""
    rng = random.Random(5)
    async with AsyncClient(url) as client:
        lengths = await _serve(await _sessions(client, streams), rng, SAMPLE_CHARACTERS, 4)
        per_token = SAMPLE_CHARACTERS / statistics.median(lengths)
        _compute(engine, rng, lengths, 4)
        measured = []
        for turn in track(range(rounds), "measuring"):
            bare = _timed_compute(engine, rng, lengths, answer) if turn % 2 else None
            sessions = await _sessions(client, streams)
            began, cpu = time.perf_counter(), time.process_time()
            lengths = await _serve(sessions, rng, int(prompt * per_token), answer)
            served, client_cpu = time.perf_counter() - began, time.process_time() - cpu
            measured.append(Round(served, bare or _timed_compute(engine, rng, lengths, answer), client_cpu))
    return measured


async def _sessions(client: AsyncClient, streams: int) -> list[Session]:
    return [await client.session() for _ in range(streams)]


async def _serve(sessions: list[Session], rng: random.Random, characters: int, answer: int) -> list[int]:
    """The first turn of all these sessions at once; tokens of each prompt."""
    texts = [fresh_text(rng, characters) for _ in sessions]

    async def turn(session: Session, text: str) -> int:
        async with session.send(text, max_output_tokens=answer, temperature=0) as reply:
            async for _ in reply:
                pass
        if reply.reply.output_tokens != answer:
            raise RuntimeError(f"{reply.reply.output_tokens} tokens instead of {answer}: {reply.reply.error}")
        return int(reply.reply.input_tokens)

    return list(await asyncio.gather(*(turn(s, t) for s, t in zip(sessions, texts, strict=True))))


def _timed_compute(engine: Engine, rng: random.Random, lengths: list[int], answer: int) -> float:
    began = time.perf_counter()
    _compute(engine, rng, lengths, answer)
    return time.perf_counter() - began


def _compute(engine: Engine, rng: random.Random, lengths: list[int], answer: int) -> None:
    """The same from the engine alone: new prompts of these lengths, all at once."""
    for i, length in enumerate(lengths):
        request = AddRequest(
            request_id=str(i),
            prompt_token_ids=[rng.randint(1, engine.runner.vocab_size - 1) for _ in range(length)],
            params=SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True),
        )
        engine.add(request, time.monotonic())
    while engine.has_work:
        engine.step(time.monotonic)


def _print(console: Console, result: dict[str, Any]) -> None:
    rate = result["tokens_per_s"]
    told = (
        f"{result['streams']} streams of {result['prompt_tokens']} tokens in and {result['answer_tokens']} out, "
        f"{result['parameters'] / 1e6:.0f}M parameters: {rate['served']:,.0f} output tokens/s over WebSockets, "
        f"{rate['engine']:,.0f} from the engine alone: overhead {result['overhead']:.1%}, with the client's work, "
        f"which took {result['client_share']:.1%} of the time on one core"
    )
    console.print(Text(told))
