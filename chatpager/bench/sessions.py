"""``chatpager bench sessions``: sessions that return in turn, more of them than the device has room for.

The order in which a cache that evicts the least recently used loses every session just before it comes back. Five
engines serve the same trace one after the other on the same weights: without a prefix cache; with one that knows of no
session and no lower tier, which is plain least recently used; that with host memory below it; and chatpager's own, with
heads and leases, without host memory and with it.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import machine, models
from chatpager.config import EngineConfig
from chatpager.engine.block_pool import EvictionClass
from chatpager.engine.engine import Engine
from chatpager.engine.heads import Strength
from chatpager.engine.messages import AddRequest, LeaseRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

ANSWER_TOKENS = 8
NEW_TOKENS = 24
BLOCK = 16
LEASE_SECONDS = 60.0

BASELINES: dict[str, dict[str, Any]] = {
    "no prefix cache": {"enable_prefix_caching": False, "swap_space": 0.0},
    "least recently used": {"swap_space": 0.0},
    "least recently used, host memory": {},
    "chatpager, device only": {"swap_space": 0.0, "owned": True},
    "chatpager": {"owned": True},
}


@dataclass
class Trace:
    """Prompts of one engine, in order, and what each found."""

    ttft: list[float]
    hit: int = 0
    attainable: int = 0
    host: int = 0


def run(*, sessions: int, tokens: int, rounds: int, share: float, shape: str, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures. The device has room for ``share`` of all sessions' tokens, host memory
    for all of them.

    Raises:
        ConfigError: a number or the shape cannot be measured.
    """
    for name, value, least in (("sessions", sessions, 2), ("tokens", tokens, BLOCK), ("rounds", rounds, 2)):
        if value < least:
            raise ConfigError(name, f"must be at least {least}", value=value)
    longest = tokens + rounds * (NEW_TOKENS + ANSWER_TOKENS)
    if not 0 < share <= 1 or longest > models.POSITIONS:
        raise ConfigError("share", "must be above 0 and at most 1, and the sessions shorter", value=share)
    blocks = int(share * sessions * -(-longest // BLOCK)) + 2
    floor = 2 * (-(-longest // BLOCK) + 2)
    if blocks < floor:
        raise ConfigError("share", f"the pool must hold two whole sessions ({floor} blocks)", value=share)
    console = Console()
    traces: dict[str, Trace] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = models.make_model(shape, folder)
        for name, settings in BASELINES.items():
            engine, owned = _engine(folder, blocks, longest, settings)
            traces[name] = _replay(engine, owned, sessions, tokens, rounds, name)
    result = _summary(traces, sessions, tokens, rounds, share, shape, parameters, blocks)
    _print(console, result)
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
    return result


def _engine(folder: Path, blocks: int, longest: int, settings: dict[str, Any]) -> tuple[Engine, bool]:
    given = {"swap_space": machine.memory_gib() / 2, **settings}  # taken as it is needed
    owned = given.pop("owned", False)
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        block_size=BLOCK,
        num_kv_blocks=blocks,
        max_model_len=longest,
        max_num_batched_tokens=1024,
        seed=1,
        **given,
    )
    engine = Engine(config, ModelRunner(config))
    if not owned:
        engine.cache.worth_keeping = EvictionClass.DEAD  # a cache that knows no sessions cannot tell
    return engine, owned


def _replay(engine: Engine, owned: bool, sessions: int, tokens: int, rounds: int, name: str) -> Trace:
    """Every session a turn, in the same order, ``rounds`` times. The first round is cold for all and not counted."""
    rng = random.Random(11)
    vocabulary = engine.runner.vocab_size - 1
    histories = [[rng.randint(1, vocabulary) for _ in range(tokens)] for _ in range(sessions)]
    trace = Trace([])
    for turn in track([(r, s) for r in range(rounds) for s in range(sessions)], name):
        round, s = turn
        known = len(histories[s]) - 1 if round else 0
        histories[s] += [rng.randint(1, vocabulary) for _ in range(NEW_TOKENS)]
        seconds, cached, host, answer = _turn(engine, f"{s}/{round}", histories[s], f"session-{s}" if owned else "")
        histories[s] += answer
        if round:
            trace.ttft.append(seconds)
            trace.hit += cached
            trace.host += host
            trace.attainable += known // BLOCK * BLOCK
    return trace


def _turn(engine: Engine, name: str, prompt: list[int], owner: str) -> tuple[float, int, int, list[int]]:
    """(seconds to the first token, cached tokens, of them from host memory, the answer)."""
    params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True)
    began, first, answer, usage = time.monotonic(), None, [], None
    engine.add(AddRequest(request_id=name, prompt_token_ids=prompt, params=params, owner=owner), began)
    while engine.has_work:
        for output in engine.step(time.monotonic):
            if output.token_ids and first is None:
                first = time.monotonic()
            answer += output.token_ids
            usage = output.usage or usage
    assert first is not None and usage is not None
    if owner:
        engine.lease(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=LEASE_SECONDS), time.monotonic())
    return first - began, usage.cached_tokens, usage.host_tokens, answer


def _summary(
    traces: dict[str, Trace],
    sessions: int,
    tokens: int,
    rounds: int,
    share: float,
    shape: str,
    parameters: int,
    blocks: int,
) -> dict[str, Any]:
    cold = statistics.median(traces["no prefix cache"].ttft)
    return {
        "what": "sessions that return in turn: of the tokens that could come from the cache, those that did",
        "shape": shape,
        "parameters": parameters,
        "sessions": sessions,
        "tokens": tokens,
        "rounds": rounds,
        "device_share": share,
        "device_blocks": blocks,
        "engines": {
            name: {
                "hit_of_attainable": round(t.hit / t.attainable, 4),
                "from_host": round(t.host / t.attainable, 4),
                "ttft_p50_ms": round(1000 * statistics.median(t.ttft), 1),
                "ttft_p99_ms": round(1000 * statistics.quantiles(t.ttft, n=100)[98], 1),
                "ttft_of_cold": round(statistics.median(t.ttft) / cold, 4),
            }
            for name, t in traces.items()
        },
        "machine": machine.describe(),
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    head = (
        f"{result['sessions']} sessions of {result['tokens']:,} tokens return in turn, the device has room for "
        f"{result['device_share']:.0%} of them; {result['parameters'] / 1e6:.0f}M parameters"
    )
    table = Table("engine", "hit / attainable", "from host", "TTFT p50", "p99", "of cold", title=head)
    for name, facts in result["engines"].items():
        table.add_row(
            name,
            f"{facts['hit_of_attainable']:.1%}",
            f"{facts['from_host']:.1%}",
            f"{facts['ttft_p50_ms']:,.0f} ms",
            f"{facts['ttft_p99_ms']:,.0f} ms",
            f"{facts['ttft_of_cold']:.1%}",
        )
    console.print(table)
