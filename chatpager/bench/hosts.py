"""``chatpager bench hosts``: the same streams from an engine in a thread of this process, a child, and a Ray actor.

Each engine has the same model and settings, and takes its turn while the others have nothing to do; which comes first
changes from round to round. There is no server: what is measured is the seam and the way to the engine. Ray gives an
actor one thread where ``OMP_NUM_THREADS`` says nothing, so all have as many only with that.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import machine, plot, report
from chatpager.config import EngineConfig
from chatpager.demo import model_path
from chatpager.engine.engine import Engine
from chatpager.engine.fake_runner import FakeRunner
from chatpager.engine.messages import AddRequest, FinishReason, StepOutput
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError, EngineStopped
from chatpager.sessions.engine_child import live
from chatpager.sessions.engine_host import EngineHost, Hearers
from chatpager.sessions.engine_link import Program
from chatpager.sessions.engine_process import EngineProcess
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.ray_link import RayReplica, end_actor

THREAD, CHILD, ACTOR = "thread", "child process", "Ray actor"
MAX_MODEL_LEN = 1024
MOST_STREAMS = 1024


class Streams(NamedTuple):
    """``prompt`` and ``answer`` are tokens of each. ``fake``: words of the fake engine, ``pace`` of them a second (0:
    as fast as it goes), in place of the built-in model's."""

    at_once: int = 64
    prompt: int = 64
    answer: int = 128
    rounds: int = 5
    fake: bool = False
    pace: float = 0.0


def run(streams: Streams, *, has_ray: bool, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures. ``has_ray``: this process has joined a cluster.

    Raises:
        ConfigError: a number cannot be measured.
    """
    longest = MAX_MODEL_LEN // 2
    for name, most in (("at_once", MOST_STREAMS), ("prompt", longest), ("answer", longest), ("rounds", 100)):
        if not 1 <= getattr(streams, name) <= most:
            named = "streams" if name == "at_once" else name
            raise ConfigError(named, f"must be between 1 and {most:,}", value=getattr(streams, name))
    measured = asyncio.run(_measure(streams, has_ray))
    rows = {name: _row(streams, rounds, measured[CHILD]) for name, rounds in measured.items()}
    result = {
        "what": "the same streams from an engine in a thread, in a child process and as a Ray actor",
        "model": f"fake, {streams.pace:g} tokens/s a stream" if streams.fake else "the built-in one",
        "streams": streams.at_once,
        "prompt_tokens": streams.prompt,
        "answer_tokens": streams.answer,
        "seconds": {name: [round(one.wall, 3) for one in rounds] for name, rounds in measured.items()},
        "cpu_seconds": {name: [round(one.cpu, 3) for one in rounds] for name, rounds in measured.items()},
        "hosts": rows,
        "machine": machine.describe(),
    }
    _print(result)
    rates = {name: row["tokens_per_s"] for name, row in rows.items()}
    report.save(result, out, [plot.bars("Output tokens a second", rates, "")])
    return result


def _row(streams: Streams, rounds: Sequence[Took], child: Sequence[Took]) -> dict[str, Any]:
    """Medians; ``of_child`` is that of the ratios round by round."""
    tokens = streams.at_once * streams.answer
    pairs = list(zip(rounds, child, strict=True))
    return {
        "tokens_per_s": round(tokens / statistics.median(one.wall for one in rounds), 1),
        "of_child": round(statistics.median(other.wall / one.wall for one, other in pairs), 4),
        "tokens_per_cpu_s": round(tokens / statistics.median(one.cpu for one in rounds), 1),
        "of_child_by_cpu": round(statistics.median(other.cpu / one.cpu for one, other in pairs), 4),
    }


def build(settings: bytes) -> Engine:
    config = msgspec.msgpack.decode(settings, type=EngineConfig)
    return Engine(config, FakeRunner(config) if config.engine == "fake" else ModelRunner(config))


def _settings(streams: Streams) -> bytes:
    config = EngineConfig(
        model=str(model_path()),
        engine="fake" if streams.fake else "torch",
        fake_tokens_per_second=streams.pace,
        max_model_len=MAX_MODEL_LEN,
        num_kv_blocks=streams.at_once * (MAX_MODEL_LEN // 16) + 2,
        max_num_seqs=streams.at_once,
        swap_space=0.0,
        seed=1,
    )
    return msgspec.msgpack.encode(config)


class Took(NamedTuple):
    """Seconds from the first request to the last end, and of processor time of the engine's process: where others use
    the machine, the first is theirs, too."""

    wall: float
    cpu: float


class _Ear:
    """Hears one engine until all that it was asked for has ended."""

    def __init__(self) -> None:
        self.tokens = 0
        self._left: set[str] = set()
        self._over = asyncio.Event()
        self._failed: Exception | None = None

    def expect(self, names: Sequence[str]) -> None:
        self.tokens, self._left = 0, set(names)
        self._over.clear()

    def hear(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            self.tokens += len(output.token_ids)
            if output.finish_reason:
                self._left.discard(output.request_id)
                if output.finish_reason != FinishReason.LENGTH:
                    self._failed = RuntimeError(f"an answer ended as {output.finish_reason}: {output.error_message}")
        if not self._left or self._failed:
            self._over.set()

    def die(self) -> None:
        self._failed = self._failed or EngineStopped("the engine has stopped; its log says why")
        self._over.set()

    async def all_ended(self) -> int:
        await self._over.wait()
        if self._failed:
            raise self._failed
        return self.tokens


async def _measure(streams: Streams, has_ray: bool) -> dict[str, list[Took]]:
    """Each round, by where the engine was. The first round of each is for warming up."""
    settings, name = _settings(streams), f"chatpager-bench-{secrets.token_hex(4)}"
    ears = {kind: _Ear() for kind in (THREAD, CHILD, *([ACTOR] if has_ray else []))}
    hears = {kind: Hearers(ear.hear, death=ear.die) for kind, ear in ears.items()}
    hosts: dict[str, EngineHost] = {
        THREAD: EngineThread(partial(build, settings), hears[THREAD]),
        CHILD: EngineProcess(Program([sys.executable, "-P", "-m", __name__], settings), hears[CHILD]),
    }
    if has_ray:
        hosts[ACTOR] = EngineProcess(RayReplica(name, build, settings, num_cpus=0), hears[ACTOR])
    rng = random.Random(5)
    started: list[EngineHost] = []
    try:
        for host in hosts.values():
            started.append(host)
            await host.start()
        found: dict[str, list[Took]] = {kind: [] for kind in hosts}
        for turn in track(range(streams.rounds + 1), "measuring"):
            kinds = list(hosts)
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                took = await _serve(hosts[kind], ears[kind], streams, rng)
                if turn:
                    found[kind].append(took)
        return found
    finally:
        for host in started:
            await host.stop()
        if has_ray:
            await asyncio.to_thread(end_actor, name)


async def _serve(host: EngineHost, ear: _Ear, streams: Streams, rng: random.Random) -> Took:
    params = SamplingParams(max_tokens=streams.answer, temperature=0.0, ignore_eos=True)
    requests = [
        AddRequest(
            request_id=str(i),
            prompt_token_ids=[rng.randint(3, 1000) for _ in range(streams.prompt)],
            params=params,
        )
        for i in range(streams.at_once)
    ]
    ear.expect([one.request_id for one in requests])
    began, cpu = time.perf_counter(), _cpu_seconds(host)
    for one in requests:
        host.send(one)
    tokens = await ear.all_ended()
    took = Took(time.perf_counter() - began, _cpu_seconds(host) - cpu)
    if tokens != streams.at_once * streams.answer:
        raise RuntimeError(f"{tokens} tokens came instead of {streams.at_once * streams.answer}")
    return took


def _cpu_seconds(host: EngineHost) -> float:
    """Of the engine's process so far, by Linux' clock of that process (clock_getcpuclockid)."""
    return time.clock_gettime(~(host.pid or os.getpid()) << 3 | 2)


def _print(result: dict[str, Any]) -> None:
    head = (
        f"{result['streams']} streams of {result['prompt_tokens']} tokens in and {result['answer_tokens']} out, model: "
        f"{result['model']}"
    )
    table = Table("engine", "tokens/s", "of the child's", "tokens a CPU second", "of the child's", title=head)
    for name, row in result["hosts"].items():
        wall, cpu = f"{row['of_child']:.1%}", f"{row['of_child_by_cpu']:.1%}"
        table.add_row(name, f"{row['tokens_per_s']:,.0f}", wall, f"{row['tokens_per_cpu_s']:,.0f}", cpu)
    console = Console()
    console.print(table)
    if ACTOR not in result["hosts"]:
        console.print("No Ray actor was measured: pip install 'chatpager\\[ray]'")


if __name__ == "__main__":
    live(build, sys.argv[1:])
