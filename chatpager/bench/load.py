"""``chatpager bench load``: what a server takes for thousands of sockets, and whether it tells all of them the truth.

One process is all clients. They write down what they hear, and at the end each response is held against what the
server has stored. Times and memory are the server's own, from ``/metrics``; the clients share its machine, and how
much of it they took is told beside.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import ClientSession
from rich.console import Console

from chatpager.bench import load_scenarios as loads
from chatpager.bench import machine, oracle, report, server
from chatpager.bench.exposition import total
from chatpager.bench.load_goals import judged, table
from chatpager.bench.load_turns import turns
from chatpager.bench.plain_socket import SocketLost
from chatpager.bench.talkers import raise_file_limit
from chatpager.bench.transcript import Transcript, lines
from chatpager.demo import model_path
from chatpager.errors import ChatpagerError, ConfigError
from chatpager.server.event_loop import event_loop_runner

AT_ONCE = 16
"""Stored responses that are asked for at the same time."""

SMALL_CACHES = ("--num-kv-blocks", "16384", "--swap-space", "0.01", "--known-conversations", "4096")


@dataclass(frozen=True)
class Options:
    """``url`` None: a server of our own with the fake engine, at ``rate`` tokens a second of each stream."""

    url: str | None = None
    api_key: str | None = None
    idle: int = 0
    streams: tuple[int, ...] = ()
    turns: int = 0
    resumes: int = 0
    stalled: int = 0
    soak: float = 0.0
    rate: float = 20.0
    seconds: float = 20.0
    self_flags: tuple[str, ...] = ()
    transcript: str | None = None
    out: str | None = None


def run(options: Options) -> dict[str, Any]:
    """Play the loads, check the transcript, print and return the figures.

    Raises:
        ConfigError: a number makes no sense.
        ChatpagerError: somebody was told what is not stored, or nothing where there was something; or a socket was not
            opened.
    """
    _check(options)
    console = Console()
    with ExitStack() as opened:
        temporary = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        url = options.url
        if url is None:
            (temporary / "data").mkdir()
            with console.status("starting the server"):
                url = opened.enter_context(server.running(model_path(), temporary / "data", *_flags(options)))
        path = Path(options.transcript) if options.transcript else temporary / "transcript.jsonl"
        try:
            with _without_pushing(), event_loop_runner() as runner:
                result = runner.run(_measure(options, url.rstrip("/"), path, console))
        except SocketLost as error:
            way = "does it take so many sockets (--max-sockets, --max-sockets-per-tenant, ulimit -n), and is it there?"
            raise ChatpagerError(f"{url}: {error}; {way}") from error
    console.print(table(result["figures"]))
    report.save(result, options.out)
    if faults := result["faults"]:
        raise ChatpagerError(f"{len(faults)} faults, the first: " + "; ".join(faults[:3]))
    return result


@contextmanager
def _without_pushing() -> Iterator[None]:
    """Clients on the server's own machine take its core at once whenever it writes to one of them, six thousand times a
    second of 1,000 streams; clients elsewhere do not. As a batch they wait until a core is free."""
    if not hasattr(os, "SCHED_BATCH"):
        yield
        return
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def _check(options: Options) -> None:
    if options.url is not None:
        _check_url(options.url)
    for name in ("idle", "turns", "resumes", "stalled", "soak"):
        if getattr(options, name) < 0:
            raise ConfigError(name, "must be at least 0", value=getattr(options, name))
    for count in options.streams:
        if count < 1:
            raise ConfigError("streams", "must be at least 1", value=count)
    for name in ("rate", "seconds"):
        if not getattr(options, name) > 0:
            raise ConfigError(name, "must be above 0", value=getattr(options, name))
    files, sockets = raise_file_limit(), max(options.idle, options.turns, options.resumes, *options.streams, 0)
    if sockets > files - 200:
        problem = f"{sockets} sockets do not fit the {files} files that this process may open (ulimit -Hn)"
        raise ConfigError("sockets", problem)


def _check_url(url: str) -> None:
    """These clients speak no TLS: what they send, the key too, can be read on its way."""
    try:
        parts = urlsplit(url)
        right = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port
        right = False
    if not right:
        raise ConfigError("url", "must be http://HOST[:PORT]; where only https is, go around the proxy", value=url)


def _flags(options: Options) -> list[str]:
    """A soak alone has small caches: they are full after some minutes, and what grows from then on is none."""
    small = options.soak and not options.streams
    most = max(*options.streams, options.turns, 256)
    queue, sockets = str(most + 1024), str(max(most, options.idle, options.resumes, options.stalled) + 1024)
    return [
        *("--engine", "fake", "--test-mode", "--fake-tokens-per-second", str(options.rate)),
        *("--max-num-seqs", str(most + 64), "--max-num-batched-tokens", str(max(1024, 2 * most))),
        *("--max-queue", queue, "--max-queue-per-tenant", queue),
        *("--max-sockets", sockets, "--max-sockets-per-tenant", sockets),
        *(SMALL_CACHES if small else ()),
        *options.self_flags,
    ]


async def _measure(options: Options, url: str, path: Path, console: Console) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    played: list[tuple[str, dict[str, Any]]] = []
    async with ClientSession(headers=headers) as http:
        with Transcript(path) as transcript:
            stage = loads.Stage(url, headers, http, transcript, random.Random(1))
            stage.others = total(await stage.look(), "ws_connections")
            for name, load in _plan(stage, options):
                with console.status(name):
                    played.append((name, await load))
                console.print(name, played[-1][1])
        with console.status("checking what was heard against what is stored"):
            found = oracle.account(lines(path))
            faults = stage.faults + found.faults + await _stored_otherwise(http, url, found)
    result = {
        "what": "one server under many sockets; times and memory are the server's own",
        "loads": [{"load": name, **figures} for name, figures in played],
        "figures": judged(played),
        "oracle": {
            "responses": len(found.responses),
            "ended": found.ended,
            "events": found.events,
            "refused": found.refused,
            "faults": len(faults),
        },
        "faults": faults[:20],
        "machine": machine.describe(),
    }
    return cast(dict[str, Any], _finite(result))


def _finite(value: Any) -> Any:
    """``value`` as JSON can say it: what is beyond all bounds, or of nothing, is null."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: _finite(part) for name, part in value.items()}
        case list():
            return [_finite(part) for part in value]
    return value


def _plan(stage: loads.Stage, options: Options) -> list[tuple[str, Any]]:
    """The loads that were asked for, as coroutines that have not begun."""
    plan: list[tuple[str, Any]] = []
    if options.idle:
        plan.append(("idle", loads.idle(stage, options.idle, options.seconds)))
    for count in options.streams:
        plan.append(("streams", loads.streams(stage, count, options.rate, options.seconds)))
    if options.turns:
        plan.append(("turns", turns(stage, options.turns, options.seconds)))
    if options.resumes:
        plan.append(("resumes", loads.resumes(stage, options.resumes)))
    if options.stalled:
        plan.append(("stalled", loads.stalled(stage, options.stalled)))
    if options.soak:
        plan.append(("soak", loads.soak(stage, 50, options.soak)))
    return plan


async def _stored_otherwise(http: ClientSession, url: str, found: oracle.Account) -> list[str]:
    """What is stored of all responses that were heard of, where it is not what was heard."""
    room = asyncio.Semaphore(AT_ONCE)

    async def check(name: str, heard: oracle.Heard) -> list[str]:
        async with room, http.get(f"{url}/v1/responses/{name}") as answer:
            stored: Mapping[str, Any] | None = await answer.json() if answer.status == 200 else None
        return oracle.against_the_store(name, heard, stored)

    checks = await asyncio.gather(*(check(name, heard) for name, heard in found.responses.items()))
    return [fault for faults in checks for fault in faults]
