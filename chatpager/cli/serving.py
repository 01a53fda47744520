"""``chatpager demo`` and ``chatpager serve``: from settings to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from rich.console import Console
from rich.text import Text

from chatpager.cli.app import address
from chatpager.config import Config, ServerConfig
from chatpager.engine.engine import Engine
from chatpager.engine.loader import check, sampling_defaults
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import ConfigError, ModelLoadError
from chatpager.program import program
from chatpager.server.app import drain, make_app
from chatpager.server.keyring import KEYRING
from chatpager.server.metrics import Metrics
from chatpager.server.patience import TooManyConnections, make_runner
from chatpager.server.requests import Served
from chatpager.server.service import Service
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.salts import domain_of, server_secret
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn
from chatpager.store import Store

log = structlog.get_logger("chatpager")


def serve_model(config: Config, *, browser: bool) -> None:
    set_up_logs(config.server.log_format)
    runner = _event_loop_runner()
    with runner:
        runner.run(serve(config, browser=browser))


async def serve(config: Config, *, browser: bool = False, console: Console | None = None) -> None:
    """Run until SIGINT or SIGTERM; a second signal does not wait for running turns."""
    console = console or Console(stderr=False)
    stop = asyncio.Event()
    _on_signals(lambda number: _give_up(console, number))
    path = await asyncio.to_thread(find_model, config.engine.model, console)
    name = config.server.served_model_name or model_name(config.engine.model, path)
    runner = make_runner(make_app(config.server, service_opener(config, path, name)))
    asyncio.get_running_loop().set_exception_handler(TooManyConnections())
    with console.status(Text(f"loading {name}")):
        await runner.setup()
    try:
        site = web.TCPSite(runner, config.server.host, config.server.port)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(error, config.server) from error
        url = _url(site, config.server.host)
        locked = not await runner.app[KEYRING].open()
        console.print(banner(runner.app, url, locked=locked), soft_wrap=True)
        if browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        _on_signals(lambda number: _end(stop))
        await stop.wait()
        console.print("stopping: running answers have time to end; again to stop at once")
        await drain(runner.app)
    finally:
        await runner.cleanup()


def _cannot_listen(error: OSError | UnicodeError, server: ServerConfig) -> ConfigError:
    """UnicodeError: the host cannot be a name."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
        return ConfigError("port", f"cannot listen: {reason}; choose another with --port", value=server.port)
    problem = f"cannot listen: {reason}; give an address of this machine with --host"
    return ConfigError("host", problem, value=server.host)


def _on_signals(react: Callable[[int], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, react, number)


def _give_up(console: Console, number: int) -> None:
    """While it loads nobody is served, and a thread that fetches a model would not let the process end."""
    console.show_cursor()
    os._exit(128 + number)


def _end(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(130)
    stop.set()


def service_opener(config: Config, path: Path, name: str) -> Callable[[], Awaitable[Service]]:
    """What the application calls at start-up: store, tokenizer, engine."""

    async def open_service() -> Service:
        metrics = Metrics()
        # The folder first: what is wrong with it is told better than by the tokenizer, and before anything is made.
        await asyncio.to_thread(check, path)
        served = Served(name, sampling_defaults(path))
        tokenizer = await asyncio.to_thread(Tokenizer, path)
        if not tokenizer.has_template:
            log.warning("the model has no chat template: it can complete prompts, but every chat will be refused")
        store = await Store.open(config.store.resolved_database_url(), migrate=True)
        secret = server_secret(config.store.resolved_data_dir())
        try:

            def on_end(turn: LiveTurn, ended: Ended) -> None:
                metrics.turn_ended(turn, ended)
                log_turn(turn, ended)

            hub = SessionHub(
                store,
                tokenizer,
                lambda: build_engine(config, path, domain_of(secret)),
                secret=secret,
                max_turns=config.server.max_queue,
                on_end=on_end,
            )
            await hub.open()
        except BaseException:
            await store.close()
            raise
        return Service(config.server, hub, served, metrics, started_at=time.time_ns() // 1_000_000)

    return open_service


def build_engine(config: Config, path: Path, domain: bytes) -> Engine:
    """Runs in the engine's thread. ``domain``: of the blocks that it finds on disk."""
    from dataclasses import replace

    from chatpager.engine.model_runner import ModelRunner

    engine = replace(config.engine, model=str(path))
    runner = ModelRunner(engine)
    if engine.kv_dir:
        return Engine(engine, runner, domain=domain)
    try:
        kv_dir = str(config.store.resolved_data_dir() / "kv")
        return Engine(replace(engine, kv_dir=kv_dir), runner, domain=domain)
    except ConfigError as error:
        if error.name != "kv_dir":
            raise
        log.warning("kv_dir", problem=str(error), result="no KV blocks are kept on disk")
        return Engine(engine, runner, domain=domain)


def find_model(name: str, console: Console) -> Path:
    """The folder of a model, fetched from the hub when it is not one.

    Raises:
        ModelLoadError: it is neither, or cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download

    about = f"fetching {name} from the Hugging Face hub (only safetensors, configuration and tokenizer)"
    console.print(Text(about))
    wanted = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # whatever the hub's client raises means the same here
        raise ModelLoadError(
            name, f"no such folder, and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error


def model_name(asked: str, path: Path) -> str:
    """What clients call the model: its name on the hub, whose copy here is called by its revision, or its folder's."""
    return path.name if path == Path(asked).expanduser() else asked


def banner(app: web.Application, url: str, *, locked: bool) -> Text:
    from chatpager.server.service import SERVICE

    service = app[SERVICE]
    hub, name = service.hub, service.served.name
    usable = f"{hub.num_blocks:,} usable blocks of {hub.block_size} tokens: {hub.num_blocks * hub.block_size:,} tokens"
    header = ' -H "authorization: Bearer $CHATPAGER_API_KEY"' if locked else ""
    key = "YOUR KEY" if locked else "-"
    warm = "" if hub.warm_fraction is None else f"; {hub.warm_fraction:.0%} of what was told before is on disk"
    told = f""" serves {name}

  chat       {url}
  terminal   {program()} chat --url {url}
  curl       curl {url}/v1/responses{header} -H 'content-type: application/json' -d '{{"input": "Hello"}}'
  python     OpenAI(base_url="{url}/v1", api_key="{key}").responses.create(model="default", input="Hello").output_text

  KV cache   {usable}; context {hub.max_model_len:,}{warm}
  data       {service.store.shown}
"""
    return Text.assemble("\n", ("chatpager", "bold"), told)


def log_turn(turn: LiveTurn, ended: Ended) -> None:
    """One line a turn; never its text."""
    log.info(
        "turn",
        id=turn.id,
        tenant=turn.request.tenant,
        session=turn.request.session_id,
        status=ended.status,
        prompt=len(turn.prompt),
        cached=ended.receipt.cached_tokens if ended.receipt else 0,
        miss=ended.receipt.miss_reason if ended.receipt else None,
        generated=ended.output_tokens,
        ttft_ms=ended.timings.ttft_ms,
        tok_s=ended.timings.decode_tok_s,
        error=ended.error_code,
    )


SHARED = 3
"""Processors that add to an event; those behind them make a line of it."""


def set_up_logs(form: str) -> None:
    """Structured lines on standard error, for people or for machines."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Not the default: it shows local variables, and they may hold what people wrote.
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    # What the engine and the libraries say, who know only the standard library's logging, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors[:SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors[SHARED:]],
        )
    )
    logging.getLogger().handlers = [handler]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _event_loop_runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _url(site: web.TCPSite, host: str) -> str:
    server = site._server
    assert server is not None
    return address(host, server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
