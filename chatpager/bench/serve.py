"""``chatpager bench serve``: servers that speak OpenAI's Chat Completions, side by side on the same prompts.

Servers alternate within each round and one at a time is measured; figures are medians over the rounds. Each goes with
the share of the processors that neither the client nor the server used: where that is large, others disturbed it.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.text import Text

from chatpager.bench import accounting, machine, models, serve_report
from chatpager.bench.completions import SILENT_SECONDS, PeerError, Refused
from chatpager.bench.peers import Peer, exit_code, ourselves, remember_peak, running, serving, started, tail
from chatpager.bench.scenarios import SCENARIOS, TRIAL, Asker, Figures, Sizes, user
from chatpager.bench.text import words_of
from chatpager.errors import ConfigError

FARTHEST, TEMPLATE_TOKENS = 0.15, 32
"""How far a prompt's length may be from what was meant before it is noted: this share, and what a template adds."""

REST_SECONDS, LOOK_SECONDS = 15.0, 0.25
"""How long the others get to come to rest before a server is measured, and for how long they are looked at."""


@dataclass(frozen=True)
class Options:
    """As on the command line."""

    url: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    without_self: bool = False
    self_flags: str = ""
    model: str | None = None
    shape: str = "160m"
    rounds: int = 3
    one_at_a_time: bool = False
    start_seconds: float = 600.0
    api_key: str | None = None
    seed: int | None = None
    trial: bool = False
    sizes: Sizes | None = None
    out: str | None = None


@dataclass
class Bench:
    """What a run has, and what it found: ``found[scenario][server]`` is a list of a round's figures each."""

    options: Options
    sizes: Sizes
    model: Path | None
    logs: Path
    words: Sequence[str]
    seed: int
    peers: list[Peer]
    console: Console
    found: dict[str, dict[str, list[Figures]]]
    failed: list[str]


def run(options: Options) -> dict[str, Any]:
    """Measure, print and return the figures; with ``out`` they are written there, as JSON and as a page, those
    of a run that was interrupted too.

    Raises:
        ConfigError: an option makes no sense.
        PeerError: a server cannot be measured. What a server failed at later is told at the end, once the figures of
            all the others are written.
    """
    scenarios = _check(options)
    sizes = options.sizes or (TRIAL if options.trial else Sizes())
    console = Console()
    with tempfile.TemporaryDirectory(prefix="chatpager-bench-") as temporary:
        folder = Path(temporary)
        peers = _peers(options, folder)
        model, parameters = _model(options, peers, folder, console)
        logs = _logs(options.out) if options.out else folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for peer in peers:
            peer.keeps_log = options.out is not None
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
        found: dict[str, dict[str, list[Figures]]] = {s: {p.name: [] for p in peers} for s in scenarios}
        bench = Bench(options, sizes, model, logs, words_of(model), seed, peers, console, found, [])
        try:
            asyncio.run(_measure(bench))
        except (KeyboardInterrupt, asyncio.CancelledError):  # the latter by SIGTERM
            bench.failed.append("interrupted: figures are of the rounds that are here")
            if any(rounds for by_server in found.values() for rounds in by_server.values()):
                _write(options.out, _result(bench, parameters))
            raise KeyboardInterrupt from None
    result = _result(bench, parameters)
    _write(options.out, result)
    serve_report.show(console, result)
    if bench.failed:
        raise PeerError("\n".join(["not everything was measured:", *bench.failed]))
    return result


def _write(out: str | None, result: dict[str, Any]) -> None:
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
        Path(out).with_suffix(".html").write_text(serve_report.page(result))


def _check(options: Options) -> list[str]:
    if options.rounds < 1:
        raise ConfigError("rounds", "must be at least 1", value=options.rounds)
    if not options.start_seconds > 0:
        raise ConfigError("start_seconds", "must be above 0", value=options.start_seconds)
    for name in options.only:
        if name not in SCENARIOS:
            raise ConfigError("only", f"must be one of {', '.join(SCENARIOS)}", value=name)
    if options.out and Path(options.out).suffix != ".json":
        raise ConfigError(
            "out", "name a file that ends in .json; the page and the logs go beside it", value=options.out
        )
    if options.out and not Path(options.out).absolute().parent.is_dir():
        raise ConfigError("out", "its folder is not there; make it first", value=options.out)
    if options.out and (logs := _logs(options.out)).exists() and not logs.is_dir():
        raise ConfigError("out", f"the logs go to {logs}, which is a file; name another", value=options.out)
    return [name for name in SCENARIOS if name in options.only or not options.only]


def _logs(out: str) -> Path:
    return Path(out).with_suffix("")


def _peers(options: Options, folder: Path) -> list[Peer]:
    found = []
    if not options.without_self:
        data = folder / "data"
        data.mkdir()
        found.append(ourselves(data, options.self_flags))
    found += [*started(options.start), *running(options.url, options.api_key)]
    if not found:
        raise ConfigError("without_self", "leaves nothing to measure; name a server with --url or --start")
    names = [peer.name for peer in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError("start", f"two servers have the name {', '.join(sorted(twice))}; give each its own")
    return found


def _model(options: Options, peers: list[Peer], folder: Path, console: Console) -> tuple[Path | None, int | None]:
    """The folder that is served, and a made-up model's parameters; None where nobody needs one."""
    if options.model:
        given = Path(options.model).expanduser()
        if not given.is_dir():
            hint = "name a folder with a model; chatpager bench model makes one"
            raise ConfigError("model", f"is no folder; {hint}", value=options.model)
        return given.resolve(), _parameters(given)
    if not any("{model}" in word for peer in peers for word in peer.command):
        return None, None
    made = folder / f"random-{options.shape}"
    with console.status(Text(f"making a random model of shape {options.shape}")):
        parameters = models.make_model(options.shape, made)
    return made, parameters


def _parameters(model: Path) -> int | None:
    """As its files say; None where they say nothing that we understand."""
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        for file in model.glob("*.safetensors"):
            with safe_open(file, "numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return total or None


async def _measure(bench: Bench) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Servers are in sessions of their own and would go on.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # some servers close idle connections under the client
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=SILENT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        if bench.options.one_at_a_time:
            for turn in range(bench.options.rounds):
                for peer in in_turn(bench.peers, turn):
                    async with serving(peer, bench.model, bench.logs, client, bench.options.start_seconds):
                        for scenario in bench.found:
                            await _one(bench, client, turn, scenario, peer)
            return
        async with AsyncExitStack() as stack:
            for peer in bench.peers:
                bench.console.print(Text(f"waiting for {peer.name}"))
                await stack.enter_async_context(
                    serving(peer, bench.model, bench.logs, client, bench.options.start_seconds)
                )
            for turn in range(bench.options.rounds):
                for scenario in bench.found:
                    for peer in in_turn(bench.peers, turn):
                        await _one(bench, client, turn, scenario, peer)


def in_turn(peers: list[Peer], turn: int) -> list[Peer]:
    """Each is the first in its round: what heats or slows the machine meets all of them."""
    first = turn % len(peers)
    return peers[first:] + peers[:first]


async def _rest(others: Sequence[int]) -> None:
    """Until the other servers' groups have stopped: threads may spin for seconds after their last request, and in a
    fixed order they would always spin into the same server's turn. What never rests is seen as the others' share."""
    for _ in range(round(REST_SECONDS / LOOK_SECONDS)):
        before = [accounting.read(group) for group in others]
        await asyncio.sleep(LOOK_SECONDS)
        if accounting.at_rest(before, [accounting.read(group) for group in others]):
            return


async def _one(bench: Bench, client: aiohttp.ClientSession, turn: int, scenario: str, peer: Peer) -> None:
    """One scenario on one server. It is not asked again what it failed at."""
    assert peer.target is not None
    bench.console.print(Text(f"round {turn + 1} of {bench.options.rounds}: {scenario} on {peer.name}"))
    if any(failure.startswith(f"{scenario} on {peer.name}:") for failure in bench.failed):
        return
    await _rest([other.group for other in bench.peers if other.group and other is not peer])
    asker = Asker(client, peer.target, bench.sizes, bench.words, random.Random(f"{bench.seed}/warm/{turn}/{scenario}"))
    try:
        await asker.ask([user(asker.text(bench.sizes.prompt))], bench.sizes.short_answer)
        asker = replace(asker, rng=random.Random(f"{bench.seed}/{turn}/{scenario}"))
        before = accounting.read(peer.group)
        figures = await SCENARIOS[scenario](asker)
        figures["cpu"] = accounting.shares(before, accounting.read(peer.group))
    except PeerError as error:
        code = None if isinstance(error, Refused) else await exit_code(peer)
        died = f"; it ended with {code}:\n{tail(peer)}" if code is not None else ""
        bench.failed.append(f"{scenario} on {peer.name}: {error}{died}")
        return
    if peer.group is None:
        figures["cpu"] |= {"server": None, "others": None}  # they cannot be told apart
    remember_peak(peer)
    _check_lengths(bench, peer, figures)
    bench.found[scenario][peer.name].append(figures)


def _check_lengths(bench: Bench, peer: Peer, figures: Figures) -> None:
    parts = [figures, *(part for part in figures.values() if isinstance(part, dict))]
    if short := sum(part.get("short_answers", 0) for part in parts):
        peer.note(f"some answers ended early, {short} at a time: its figures are of fewer tokens than the others'")
    got = next((part["prompt_tokens"] for part in parts if "tokens_per_s" in part or "decode_tokens_per_s" in part), 0)
    meant = bench.sizes.prompt
    if got and not (1 - FARTHEST) * meant <= got <= (1 + FARTHEST) * meant + TEMPLATE_TOKENS:
        peer.note(f"its prompts are longer or shorter than meant, {got:g} for {meant}: name its tokenizer with --model")


def _result(bench: Bench, parameters: int | None) -> dict[str, Any]:
    model = bench.model.name if bench.model else None
    return {
        "what": "OpenAI-compatible servers on the same prompts, medians over rounds",
        "model": model if bench.options.model or not model else bench.options.shape,
        "parameters": parameters,
        "rounds": bench.options.rounds,
        "seed": bench.seed,
        "servers": {peer.name: peer.facts() for peer in bench.peers},
        "sizes": {**asdict(bench.sizes), "concurrency": list(bench.sizes.concurrency)},
        "scenarios": {
            scenario: {
                name: {"median": median(rounds), "rounds": rounds} for name, rounds in by_server.items() if rounds
            }
            for scenario, by_server in bench.found.items()
        },
        "failed": bench.failed,
        "machine": machine.describe(),
    }


def median(rounds: Sequence[Any]) -> Any:
    """Of each number in figures of the same form; None counts as not measured."""
    first = next((one for one in rounds if one is not None), None)
    if isinstance(first, dict):
        return {key: median([one[key] for one in rounds]) for key in first}
    if isinstance(first, list):
        return [median(values) for values in zip(*rounds, strict=True)]
    known = [one for one in rounds if one is not None]
    return round(statistics.median(known), 4) if known else None
