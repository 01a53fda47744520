"""``chatpager bench replicas``: what agents find again behind several engines, placed as a server places them and in
rotation, against one engine.

Engines, caches and placement are a server's own (``sessions/engine_replicas.py``), in threads of this process; only
what computes is the fake model, which compares every block that it is given with the prompt. Turns come in the order of
the trace, so many at once, and the next as many when these were answered: no pause passes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import machine, plot, report
from chatpager.bench.traces import BLOCK, Turn, agents, blocks, lengths
from chatpager.config import EngineConfig
from chatpager.demo import model_path
from chatpager.engine.engine import Engine
from chatpager.engine.fake_runner import FakeRunner
from chatpager.engine.heads import Strength
from chatpager.engine.messages import AddRequest, FinishReason, LeaseRequest, PublishPrefix, StepOutput
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError, EngineStopped
from chatpager.sessions.engine_host import EngineHost, Hearers
from chatpager.sessions.engine_replicas import EngineReplicas
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.heads import owner_of

LEASE_SECONDS = 60.0
ONE, PLACED, ROTATED = "one engine", "placed", "in rotation"
MAX_MODEL_LEN = 16_384
SEED = 7


@dataclass(frozen=True)
class Traffic:
    """Agents of whom ``shared`` tokens of the first turn are one of ``heads`` published prompts; ``at_once`` turns are
    queued together. ``room``: what a device has room for, of all agents' tokens at their ends."""

    sessions: int = 24
    tokens: int = 2000
    heads: int = 4
    shared: int = 256
    at_once: int = 8
    room: float = 1.0
    replicas: int = 2


@dataclass
class Found:
    """Tokens, and turns by replica."""

    hit: int = 0
    attainable: int = 0
    turns: Counter[str] = field(default_factory=Counter)


def run(traffic: Traffic, *, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``out``: a JSON file, beside which the plot goes as HTML.

    Raises:
        ConfigError: a number cannot be measured.
    """
    _check(traffic)
    turns = agents(random.Random(SEED), traffic.sessions, traffic.tokens, 1)
    longest = max(lengths(turns))
    pool = int(traffic.room * blocks(turns)) + 2
    each = (pool + traffic.replicas - 1) // traffic.replicas
    if longest > MAX_MODEL_LEN or each * BLOCK < 2 * longest:
        raise ConfigError("tokens", f"an agent may have {MAX_MODEL_LEN:,}, and two must fit a replica", value=longest)
    rows = []
    for size, blocks_each in (("as large", pool), ("with its memory between them", each)):
        for way in (PLACED, ROTATED):
            rows.append((f"{traffic.replicas} {size}, {way}", traffic.replicas, blocks_each, way == PLACED))
    found = {
        name: asyncio.run(_replay(traffic, turns, count, blocks_each, is_placed, name))
        for name, count, blocks_each, is_placed in [(ONE, 1, pool, True), *rows]
    }
    ways = {name: _figures(one, found[ONE]) for name, one in found.items()}
    result = {
        "what": "agents behind several engines: of the tokens that could come from a cache, those that did",
        "engine": "fake, with the real scheduler, block pool and prefix cache; nothing below the device",
        "turns": len(turns),
        "tokens": sum(lengths(turns)),
        "longest": longest,
        "device_blocks_of_one": pool,
        "traffic": {name: getattr(traffic, name) for name in Traffic.__dataclass_fields__},
        "ways": ways,
        "machine": machine.describe(),
    }
    _print(result)
    rates = {name: 100 * row["hit_of_attainable"] for name, row in ways.items()}
    report.save(result, out, [plot.bars("Cached tokens of those attainable", rates, " %")])
    return result


def _check(traffic: Traffic) -> None:
    for name, least in (("sessions", 2), ("tokens", 2 * BLOCK), ("heads", 1), ("at_once", 1), ("replicas", 2)):
        if getattr(traffic, name) < least:
            raise ConfigError(name, f"must be at least {least}", value=getattr(traffic, name))
    if traffic.shared % BLOCK or not 0 < traffic.shared <= traffic.tokens // 2:
        problem = f"must be whole blocks of {BLOCK}, and half of an agent's tokens at the most"
        raise ConfigError("shared", problem, value=traffic.shared)
    if not traffic.room > 0:
        raise ConfigError("room", "must be more than 0", value=traffic.room)


class Front(Protocol):
    def send(self, command: AddRequest | LeaseRequest | PublishPrefix) -> None: ...

    async def start(self) -> object: ...

    async def stop(self) -> None: ...

    def place_of(self, owner: str) -> str | None: ...


class Rotation:
    """Each turn to the next engine; a lease where the turn was."""

    def __init__(self, hosts: Sequence[EngineHost]) -> None:
        self._hosts, self._next = hosts, 0
        self._at: dict[str, int] = {}

    async def start(self) -> object:
        return await asyncio.gather(*(host.start() for host in self._hosts))

    async def stop(self) -> None:
        await asyncio.gather(*(host.stop() for host in self._hosts))

    def place_of(self, owner: str) -> str | None:
        return f"r{self._at[owner]}"

    def send(self, command: AddRequest | LeaseRequest | PublishPrefix) -> None:
        match command:
            case AddRequest(owner=owner):
                self._at[owner] = self._next
                self._hosts[self._next].send(command)
                self._next = (self._next + 1) % len(self._hosts)
            case LeaseRequest(owner=owner):
                self._hosts[self._at[owner]].send(command)
            case _:
                for host in self._hosts:
                    host.send(command)


def _engine(pool: int, at_once: int) -> Engine:
    config = EngineConfig(
        model=str(model_path()),
        engine="fake",
        block_size=BLOCK,
        num_kv_blocks=pool,
        max_model_len=min(MAX_MODEL_LEN, (pool - 2) * BLOCK),
        max_num_batched_tokens=1024,
        max_num_seqs=max(at_once, 8),
        swap_space=0.0,
        seed=1,
    )
    return Engine(config, FakeRunner(config))


def _made(engine: Engine) -> Callable[[], Engine]:
    return lambda: engine


class _Wave:
    """Turns that are under way, and what they have said."""

    def __init__(self) -> None:
        self.said: dict[str, list[int]] = {}
        self.cached: dict[str, int] = {}
        self._left: set[str] = set()
        self._over = asyncio.Event()
        self._failed: Exception | None = None

    def begin(self, names: Sequence[str]) -> None:
        self.said = {name: [] for name in names}
        self.cached, self._left = {}, set(names)
        self._over.clear()

    def hear(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            self.said[output.request_id] += output.token_ids
            if output.finish_reason:
                self._left.discard(output.request_id)
                if output.finish_reason != FinishReason.LENGTH or output.usage is None:
                    self._failed = RuntimeError(f"a turn ended as {output.finish_reason}: {output.error_message}")
                else:
                    self.cached[output.request_id] = output.usage.cached_tokens
        if not self._left or self._failed:
            self._over.set()

    def die(self) -> None:
        self._failed = self._failed or EngineStopped("an engine has stopped; its log says why")
        self._over.set()

    async def ended(self) -> None:
        await self._over.wait()
        if self._failed:
            raise self._failed


async def _replay(traffic: Traffic, turns: Sequence[Turn], count: int, pool: int, is_placed: bool, name: str) -> Found:
    """The trace, on ``count`` engines with ``pool`` blocks each."""
    wave = _Wave()
    hearers = Hearers(wave.hear, death=wave.die)
    # Made here: a folder can be looked at by one thread at a time.
    made = [_made(_engine(pool, traffic.at_once)) for _ in range(count)]
    front: Front
    if is_placed:
        front = EngineReplicas({f"r{i}": partial(EngineThread, one) for i, one in enumerate(made)}, hearers)
    else:
        front = Rotation([EngineThread(one, hearers) for one in made])
    await front.start()
    try:
        return await _served(traffic, turns, front, wave, name)
    finally:
        wave.begin(())
        await front.stop()


async def _served(traffic: Traffic, turns: Sequence[Turn], front: Front, wave: _Wave, name: str) -> Found:
    rng = random.Random(11)

    def draw(size: int) -> list[int]:
        return [rng.randint(3, 1000) for _ in range(size)]

    heads = [draw(traffic.shared) for _ in range(traffic.heads)]
    for i, tokens in enumerate(heads):
        front.send(PublishPrefix(label=f"head {i}", token_ids=tokens))
    known: dict[int, list[int]] = {}
    seen: set[int] = set()
    found = Found()
    for group in track(list(_waves(turns, traffic.at_once)), name):
        owners = {f"turn {turn.session}": owner_of("bench", f"agent {turn.session}") for turn in group}
        attainable = 0
        wave.begin(list(owners))
        for turn in group:
            head = turn.session % traffic.heads
            history = known.get(turn.session)
            if history is None:
                attainable += traffic.shared if head in seen else 0
                seen.add(head)
                history = known[turn.session] = list(heads[head])
                history += draw(max(1, turn.new - traffic.shared))
            else:
                attainable += len(history) - 1
                history += draw(turn.new)
            request = f"turn {turn.session}"
            front.send(_request(request, history, turn.answer, owners[request]))
            found.turns[front.place_of(owners[request]) or "none"] += 1
        await wave.ended()
        for turn in group:
            request = f"turn {turn.session}"
            known[turn.session] += wave.said[request]
            front.send(LeaseRequest(owner=owners[request], strength=Strength.SOFT, ttl=LEASE_SECONDS))
        found.hit += sum(wave.cached.values())
        found.attainable += attainable
    return found


def _request(name: str, prompt: Sequence[int], answer: int, owner: str) -> AddRequest:
    params = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
    return AddRequest(request_id=name, prompt_token_ids=list(prompt), params=params, owner=owner)


def _waves(turns: Sequence[Turn], most: int) -> Iterator[list[Turn]]:
    """Turns that come together, ``most`` at once and none behind another of its session."""
    group: list[Turn] = []
    for turn in turns:
        if len(group) == most or any(turn.session == other.session for other in group):
            yield group
            group = []
        group.append(turn)
    yield group


def _figures(found: Found, one: Found) -> dict[str, Any]:
    rate, base = found.hit / found.attainable, one.hit / one.attainable
    return {
        "hit_of_attainable": round(rate, 4),
        "of_one_engine": round(rate / base, 4),
        "busiest_share_of_turns": round(max(found.turns.values()) / found.turns.total(), 3),
    }


def _print(result: dict[str, Any]) -> None:
    head = (
        f"{result['traffic']['sessions']} agents, {result['turns']:,} turns, {result['tokens']:,} tokens; one engine "
        f"has room for {result['device_blocks_of_one'] * BLOCK:,}"
    )
    table = Table("engines", "hit / attainable", "of one engine's", "busiest one's turns", title=head)
    for name, row in result["ways"].items():
        rate, ratio = f"{row['hit_of_attainable']:.2%}", f"{row['of_one_engine']:.1%}"
        table.add_row(name, rate, ratio, f"{row['busiest_share_of_turns']:.0%}")
    Console().print(table)
