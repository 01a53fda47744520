"""``chatpager demo`` and ``chatpager serve``: from settings to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from rich.console import Console
from rich.text import Text

from chatpager import __version__, failpoints
from chatpager.cli import engine_child, ray_cluster
from chatpager.cli.engines import ChildSettings, EngineMaker, devices_of_replicas, settle_memory
from chatpager.cli.listening import listening_refused
from chatpager.cli.logs import log_turn, set_up_logs
from chatpager.cli.models import model_name
from chatpager.cli.phases import phase
from chatpager.cli.remote import address
from chatpager.cli.signals import NUMBERS, give_up
from chatpager.cli.watchdog import watch
from chatpager.config import Config
from chatpager.engine.engine import Engine
from chatpager.engine.loader import check, has_gpu, sampling_defaults
from chatpager.engine.model_digest import require_digest
from chatpager.engine.tokenizer import Tokenizer, pieces_bytes
from chatpager.errors import ConfigError
from chatpager.program import program
from chatpager.server.admin_listener import listen_for_admins
from chatpager.server.app import drain, make_app
from chatpager.server.connections import make_runner
from chatpager.server.event_loop import event_loop_runner
from chatpager.server.keyring import KEYRING
from chatpager.server.metrics import Metrics
from chatpager.server.patience import TooManyConnections
from chatpager.server.requests import Served
from chatpager.server.service import SERVICE, Service
from chatpager.server.shown_settings import settings_told
from chatpager.sessions.engine_link import Program
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.ray_link import RayReplica
from chatpager.sessions.restarts import Breaker
from chatpager.sessions.salts import domain_of, server_secret
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn
from chatpager.store import Store

log = structlog.get_logger("chatpager")

BACKLOG = 4096
"""Connections that may wait to be accepted, if the system lets them: many come at once where a server was restarted."""


def serve_model(config: Config, path: Path, console: Console, *, browser: bool) -> None:
    """``path``: the model's folder."""
    set_up_logs(config.server.log_format)
    runner = event_loop_runner()
    with runner:
        runner.run(serve(config, path, console, browser=browser))


async def serve(config: Config, path: Path, console: Console, *, browser: bool = False) -> None:
    """Run until SIGINT or SIGTERM; a second signal does not wait for running turns."""
    stop = asyncio.Event()
    _allow_open_files()
    _leave_no_core()
    _on_signals(lambda number: give_up(console, number))
    name = config.server.served_model_name or model_name(config.engine.model, path)
    runner = make_runner(make_app(config.server, service_opener(config, path, name)))
    asyncio.get_running_loop().set_exception_handler(TooManyConnections())
    words = f"loading {name}; a first start also compiles kernels for this machine: half a minute"
    with phase(console, words, as_log=config.server.log_format == "json", spins=not _is_on_gpu(config)):
        await runner.setup()
    try:
        admins = None
        if config.server.admin_port is not None:
            if config.server.admin_port == config.server.port != 0:
                raise ConfigError("admin_port", "is everybody's port, too; choose another", value=config.server.port)
            admins = await listen_for_admins(runner, config.server.admin_host, config.server.admin_port)
        site = web.TCPSite(runner, config.server.host, config.server.port, backlog=BACKLOG)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            raise listening_refused(error, config.server) from error
        url = _url(site, config.server.host)
        locked = not await runner.app[KEYRING].open()
        at_admins = url if admins is None else address(config.server.admin_host, admins)
        console.print(banner(runner.app, url, at_admins, locked=locked), soft_wrap=True)
        watch(runner.app[SERVICE].hub.engine, config.server.resolved_watchdog_seconds())
        if browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        _on_signals(lambda number: _end(stop))
        await stop.wait()
        console.print("stopping: running answers have time to end; again to stop at once")
        await drain(runner.app)
    finally:
        await runner.cleanup()
        if config.server.ray_address is not None:
            await asyncio.to_thread(ray_cluster.leave, config)


def _is_on_gpu(config: Config) -> bool:
    return config.engine.engine == "torch" and has_gpu(config.engine.device)


def _allow_open_files() -> None:
    """As many as this user may have: every connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a system may say that there is no limit and still have one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leave_no_core() -> None:
    """What a crash would write to the disk has everything in it that was said. Nor do child processes."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _on_signals(react: Callable[[int], None]) -> None:
    for number in NUMBERS:
        asyncio.get_running_loop().add_signal_handler(number, react, number)


def _end(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(130)
    stop.set()


def service_opener(config: Config, path: Path, name: str) -> Callable[[], Awaitable[Service]]:
    """What the application calls at start-up: store, tokenizer, engine."""

    async def open_service() -> Service:
        metrics = Metrics()
        # The folder first: what is wrong with it is told better than by the tokenizer, and before anything is made.
        await asyncio.to_thread(require_digest, path, config.engine.model_sha256)
        await asyncio.to_thread(check, path)
        defaults = sampling_defaults(path)
        known = config.engine.known_conversations
        tokenizer = await asyncio.to_thread(Tokenizer, path, pieces_bytes=pieces_bytes(known))
        if not tokenizer.has_template:
            log.warning("the model has no chat template: it can complete prompts, but every chat will be refused")
        store = await Store.open(config.store.resolved_database_url(), migrate=True, share=config.store.share_database)
        secret = server_secret(config.store.resolved_data_dir())
        try:
            if config.server.ray_address is not None:
                await asyncio.to_thread(ray_cluster.join, config)

            def on_end(turn: LiveTurn, ended: Ended) -> None:
                metrics.turn_ended(turn, ended)
                log_turn(turn, ended, content=config.server.log_content)

            hub = SessionHub(
                store,
                tokenizer,
                engine_maker(config, path, domain_of(secret)),
                secret=secret,
                max_turns=config.server.max_queue,
                max_turns_per_tenant=config.server.max_queue_per_tenant,
                known_conversations=known,
                on_end=on_end,
                wall=wall_clock,
                breaker=Breaker(),
            )
            await hub.open()
        except BaseException:
            await store.close()
            raise
        settle_memory()
        started_at = time.time_ns() // 1_000_000
        served = Served(name, defaults, hub.max_model_len)
        return Service(config.server, hub, served, metrics, started_at=started_at, settings=settings_told(config))

    return open_service


def wall_clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000 + 1000 * failpoints.jumped("clock.wall")


def engine_maker(
    config: Config, path: Path, domain: bytes
) -> Callable[[], Engine] | Program | Mapping[str, Program | RayReplica]:
    """What makes the engine: a function for its thread, or a process of its own, or several. Raises ConfigError: the
    settings contradict each other."""

    def settings(behind: str) -> ChildSettings:
        return ChildSettings(_maker(config, path, domain, behind), config.server.log_format, __version__)

    def program(behind: str = "", devices: str | None = None) -> Program:
        # -P: the folder that it is started in is nobody's to put modules in.
        arguments = [sys.executable, "-P", "-m", engine_child.__name__]
        environment = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        return Program(arguments, msgspec.msgpack.encode(settings(behind)), environment)

    def actor(i: int, name: str) -> RayReplica:
        devices = config.engine.tensor_parallel_size if on_gpu else 0
        told = settings(f"-{i}" if i else "")
        agreed, needs = told.agreed(), {"num_cpus": 0, "num_gpus": devices}
        return RayReplica(name, engine_child.build, msgspec.msgpack.encode(told), agreed=agreed, **needs)

    on_gpu = _is_on_gpu(config)
    apart, has_several = (
        config.server.engine_process,
        config.server.replicas > 1 or config.server.ray_address is not None,
    )
    if has_several and apart is False:
        raise ConfigError("engine_process", "replicas, and engines in Ray, have processes of their own: leave it out")
    if config.server.ray_address is not None:
        return {f"r{i}": actor(i, name) for i, name in enumerate(ray_cluster.names(config))}
    if (count := config.server.replicas) > 1:
        devices = devices_of_replicas(config)
        return {f"r{i}": program(f"-{i}" if i else "", devices[i]) for i in range(count)}
    if not (on_gpu if apart is None else apart):
        return _maker(config, path, domain, "").build
    return program()


def _maker(config: Config, path: Path, domain: bytes, behind: str) -> EngineMaker:
    """``behind``: of the name of the folder that KV blocks are kept in, which only one engine can have."""
    kv_dir = config.engine.kv_dir and config.engine.kv_dir.rstrip("/") + behind
    return EngineMaker(
        config=replace(config.engine, model=str(path), kv_dir=kv_dir),
        default_kv_dir=str(config.store.resolved_data_dir() / f"kv{behind}"),
        domain=domain,
    )


def banner(app: web.Application, url: str, admins: str, *, locked: bool) -> Text:
    service = app[SERVICE]
    hub, name = service.hub, service.served.name
    usable = f"{hub.num_blocks:,} usable blocks of {hub.block_size} tokens: {hub.num_blocks * hub.block_size:,} tokens"
    if (replicas := len(hub.engine.engines)) > 1:
        usable += f" in each of {replicas} replicas"
    header = ' -H "authorization: Bearer $CHATPAGER_API_KEY"' if locked else ""
    key = "YOUR KEY" if locked else "-"
    warm = "" if hub.warm_fraction is None else f"; {hub.warm_fraction:.0%} of what was told before is on disk"
    told = f""" serves {name}{"; NO MODEL ANSWERS, what is said is made up" if hub.is_fake else ""}

  chat       {url}
  admin      {admins}/admin
  terminal   {program()} chat --url {url}
  curl       curl {url}/v1/responses{header} -H 'content-type: application/json' -d '{{"input": "Hello"}}'
  python     OpenAI(base_url="{url}/v1", api_key="{key}").responses.create(model="default", input="Hello").output_text

  KV cache   {usable}; context {hub.max_model_len:,}{warm}
  data       {service.store.shown}
"""
    return Text.assemble("\n", ("chatpager", "bold"), told)


def _url(site: web.TCPSite, host: str) -> str:
    server = site._server
    assert server is not None
    return address(host, server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
