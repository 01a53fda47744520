"""``chatpager bench sessions``: sessions that come back, more of them than the device has room for.

The order in which a cache that evicts the least recently used loses every session just before it comes back. Five
engines serve the same trace one after the other on the same weights: without a prefix cache; with one that knows of no
session and no lower tier, which is plain least recently used; that with host memory below it; and chatpager's own, with
heads and leases, without host memory and with it. Pauses pass on a clock of the trace's own; what is computed takes the
time that it takes.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import machine, models, plot, report
from chatpager.bench.traces import BLOCK, TRACES, Turn, blocks, lengths
from chatpager.bench.workload import p99
from chatpager.config import EngineConfig
from chatpager.engine.block import EvictionClass
from chatpager.engine.engine import Engine
from chatpager.engine.heads import Strength
from chatpager.engine.messages import AddRequest, LeaseRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

LEASE_SECONDS = 60.0

NOTHING_CACHED = "no prefix cache"
BASELINES: dict[str, dict[str, Any]] = {
    NOTHING_CACHED: {"enable_prefix_caching": False, "swap_space": 0.0},
    "least recently used": {"swap_space": 0.0},
    "least recently used, host memory": {},
    "chatpager, device only": {"swap_space": 0.0, "owned": True},
    "chatpager": {"owned": True},
}


@dataclass
class Served:
    """What one engine's turns found; the first of each session is cold for all and told apart."""

    ttft: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    hit: int = 0
    attainable: int = 0
    host: int = 0
    lost: int = 0


def run(
    *, trace: str, sessions: int, tokens: int, rounds: int, working_sets: Sequence[float], shape: str, out: str | None
) -> dict[str, Any]:
    """Measure, print and return the figures: for each of ``working_sets``, all sessions' tokens in multiples of what
    the device has room for. Host memory has room for all. ``out``: a JSON file, beside which the plots go as HTML.

    Raises:
        ConfigError: a number, the shape or the trace cannot be measured.
    """
    turns = _turns(trace, sessions, tokens, rounds)
    longest = max(lengths(turns))
    pools = {of: _pool(turns, of, longest) for of in working_sets}
    console, measured = Console(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parameters = models.make_model(shape, folder)
        served: dict[str, Served] = {}
        for of, pool in pools.items():
            for name, settings in BASELINES.items():
                if name == NOTHING_CACHED and served:
                    continue  # one request at a time, and nothing kept: any pool that holds a session does the same
                engine, owned = _engine(folder, pool, longest, settings)
                served[name] = _replay(engine, owned, turns, f"{of:g}x {name}")
            measured[f"{of:g}"] = _figures(served, pool)
    result = {
        "what": "sessions that come back: of the tokens that could come from the cache, those that did",
        "trace": trace,
        "shape": shape,
        "parameters": parameters,
        "sessions": sessions,
        "turns": len(turns),
        "tokens": sum(lengths(turns)),
        "longest": longest,
        "working_sets": measured,
        "machine": machine.describe(),
    }
    _print(console, result)
    report.save(result, out, _charts(result))
    return result


def _turns(trace: str, sessions: int, tokens: int, rounds: int) -> list[Turn]:
    if trace not in TRACES:
        raise ConfigError("trace", f"must be one of {', '.join(TRACES)}", value=trace)
    for name, value, least in (("sessions", sessions, 2), ("tokens", tokens, BLOCK), ("rounds", rounds, 2)):
        if value < least:
            raise ConfigError(name, f"must be at least {least}", value=value)
    turns = TRACES[trace](random.Random(7), sessions, tokens, rounds)
    if max(lengths(turns)) > models.POSITIONS:
        raise ConfigError("tokens", f"a session may have {models.POSITIONS} at the most", value=tokens)
    return turns


def _pool(turns: list[Turn], working_set: float, longest: int) -> int:
    """Blocks of the device."""
    found = int(blocks(turns) / working_set) + 2 if working_set > 0 else 0
    floor = 2 * (-(-longest // BLOCK) + 2)
    if working_set < 1 or found < floor:
        problem = f"must be at least 1, and leave the device room for two whole sessions ({floor} blocks)"
        raise ConfigError("working_sets", problem, value=working_set)
    return found


def _engine(folder: Path, pool: int, longest: int, settings: dict[str, Any]) -> tuple[Engine, bool]:
    given = {"swap_space": machine.memory_gib() / 2, **settings}  # taken as it is needed
    owned = given.pop("owned", False)
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        block_size=BLOCK,
        num_kv_blocks=pool,
        max_model_len=longest,
        max_num_batched_tokens=1024,
        seed=1,
        **given,
    )
    engine = Engine(config, ModelRunner(config))
    if not owned:
        engine.cache.worth_keeping = EvictionClass.DEAD  # a cache that knows no sessions cannot tell
    return engine, owned


class Clock:
    """The trace's: it stands in pauses until somebody says that they are over, and runs while something is computed."""

    def __init__(self) -> None:
        self._at = 0.0
        self._since = time.monotonic()

    def __call__(self) -> float:
        return self._at + time.monotonic() - self._since

    def move(self, at: float) -> None:
        """It is ``at``, or later."""
        self._at, self._since = max(at, self()), time.monotonic()


def _replay(engine: Engine, owned: bool, turns: list[Turn], name: str) -> Served:
    """The turns one after the other; prompts are made up, the same for every engine."""
    rng = random.Random(11)
    vocabulary = engine.runner.vocab_size - 1
    histories: dict[int, list[int]] = {}
    served, clock = Served(), Clock()
    for i, turn in enumerate(track(turns, name)):
        clock.move(turn.at)
        known = histories.setdefault(turn.session, [])
        came_back = len(known) > 0
        attainable = max(0, len(known) - 1)
        known += [rng.randint(1, vocabulary) for _ in range(turn.new)]
        owner = f"session-{turn.session}" if owned else ""
        request = AddRequest(
            request_id=f"{turn.session}/{i}",
            prompt_token_ids=list(known),
            params=SamplingParams(max_tokens=turn.answer, temperature=0.0, ignore_eos=True),
            owner=owner,
        )
        seconds, cached, host, answer = _serve(engine, request, clock)
        known += answer
        if owner:
            engine.lease(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=LEASE_SECONDS), clock())
        if came_back:
            served.ttft.append(seconds)
            served.hit += cached
            served.host += host
            served.attainable += attainable
        else:
            served.first.append(seconds)
    served.lost = engine.cache.stats.lost_tokens
    return served


def _serve(engine: Engine, request: AddRequest, clock: Clock) -> tuple[float, int, int, list[int]]:
    """(seconds to the first token, cached tokens, of them from host memory, the answer)."""
    began, first, answer, usage = clock(), None, [], None
    engine.add(request, began)
    while engine.has_work:
        for output in engine.step(clock):
            if output.token_ids and first is None:
                first = clock()
            answer += output.token_ids
            usage = output.usage or usage
    assert first is not None and usage is not None
    return first - began, usage.cached_tokens, usage.host_tokens, answer


def _figures(served: dict[str, Served], pool: int) -> dict[str, Any]:
    cold = statistics.median(served[NOTHING_CACHED].ttft)
    return {
        "device_blocks": pool,
        "engines": {
            name: {
                "hit_of_attainable": round(s.hit / s.attainable, 4),
                "from_host": round(s.host / s.attainable, 4),
                "lost_tokens": s.lost,
                "ttft_p50_ms": _ms(statistics.median(s.ttft)),
                "ttft_p99_ms": _ms(p99(s.ttft)),
                "first_p99_ms": _ms(p99(s.first)),
                "ttft_of_cold": round(statistics.median(s.ttft) / cold, 4),
            }
            for name, s in served.items()
        },
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _print(console: Console, result: dict[str, Any]) -> None:
    for of, measured in result["working_sets"].items():
        head = (
            f"{result['sessions']} sessions ({result['trace']}), {result['turns']} turns, {result['tokens']:,} tokens: "
            f"{of} times what the device has room for; {result['parameters'] / 1e6:.0f}M parameters"
        )
        table = Table(
            "engine", "hit / attainable", "from host", "lost tokens", "TTFT p50", "p99", "of cold", title=head
        )
        for name, facts in measured["engines"].items():
            table.add_row(
                name,
                f"{facts['hit_of_attainable']:.1%}",
                f"{facts['from_host']:.1%}",
                f"{facts['lost_tokens']:,}",
                f"{facts['ttft_p50_ms']:,.0f} ms",
                f"{facts['ttft_p99_ms']:,.0f} ms",
                f"{facts['ttft_of_cold']:.1%}",
            )
        console.print(table)


def _charts(result: dict[str, Any]) -> list[str]:
    places = [f"{of}x" for of in result["working_sets"]]

    def series(fact: str, factor: float = 1.0) -> dict[str, list[float]]:
        return {
            name: [factor * measured["engines"][name][fact] for measured in result["working_sets"].values()]
            for name in BASELINES
        }

    return [
        plot.lines("Cached tokens of those attainable", places, series("hit_of_attainable", 100.0), " %"),
        plot.lines("Time to first token, median of the turns that came back", places, series("ttft_p50_ms"), " ms"),
        plot.lines("Time to first token, 99th percentile of them", places, series("ttft_p99_ms"), " ms"),
    ]
