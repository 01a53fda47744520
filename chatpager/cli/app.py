"""Every command, with what it imports imported only when it runs."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from chatpager import __version__
from chatpager.cli.benches import bench_app
from chatpager.cli.flags import with_settings
from chatpager.cli.keys import has_live_key, keys
from chatpager.cli.prefixes import cache
from chatpager.cli.remote import AsJson, ConfigFile, Remote, on_server, tell
from chatpager.cli.sessions import sessions
from chatpager.cli.tenants import tenants
from chatpager.errors import ConfigError
from chatpager.program import program

app = typer.Typer(
    name="chatpager",
    epilog="Example: chatpager demo",
    help="A session-first chat server: it owns the conversation and computes only what is new.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
db = typer.Typer(help="The database.", epilog="Example: chatpager db upgrade", no_args_is_help=True)
settings_app = typer.Typer(help="The settings.", epilog="Example: chatpager config show", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(settings_app, name="config")
app.add_typer(sessions, name="sessions")
app.add_typer(cache, name="cache")
app.add_typer(keys, name="keys")
app.add_typer(tenants, name="tenants")
app.add_typer(bench_app, name="bench")

DEMO_DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "num_kv_blocks": 16_384,
    "max_num_batched_tokens": 1024,
    "served_model_name": "chatpager-demo",
}
SERVE_DEFAULTS: dict[str, Any] = {"max_num_batched_tokens": 1024}
"""A step's prompt tokens hold up every stream that runs beside them, so a server takes fewer than a batch job."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"chatpager {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print and exit")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: chatpager demo --port 9000 --no-browser")
@with_settings("engine", "server", "store", leave_out={"model"}, defaults=DEMO_DEFAULTS)
def demo(
    settings: dict[str, Any],
    config: ConfigFile = None,
    browser: Annotated[bool, typer.Option(help="open the chat page in a browser")] = True,
) -> None:
    """Start the server with the built-in model: no download, no GPU."""
    from chatpager.demo import model_path

    given = {**settings, "model": str(model_path())}
    _serve(given, config, DEMO_DEFAULTS, browser=browser and has_display())


@app.command(epilog="Example: chatpager serve Qwen/Qwen3-0.6B --port 9000")
@with_settings("engine", "server", "store", leave_out={"model"}, defaults=SERVE_DEFAULTS)
def serve(
    settings: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help="model folder, or a name on the Hugging Face hub")] = None,
    config: ConfigFile = None,
) -> None:
    """Serve a model."""
    _serve({**settings, "model": model}, config, SERVE_DEFAULTS, browser=False)


def _serve(given: dict[str, Any], file: str | None, defaults: dict[str, Any], *, browser: bool) -> None:
    """What is wrong without the model being read is told at once: importing torch takes seconds."""
    from chatpager.engine import freed_memory, lean_imports

    freed_memory.share_heap()
    lean_imports.link_ahead()
    gc.disable()  # to look again and again at what is imported takes a fifth of the time; until all is loaded
    from rich.console import Console

    from chatpager.cli.leaving import leave
    from chatpager.cli.listening import cannot_listen
    from chatpager.cli.models import fetch_model, local_model
    from chatpager.cli.phases import phase
    from chatpager.cli.signals import give_up_on_signals
    from chatpager.config_sources import load
    from chatpager.server.exposure import exposure, is_exposed

    config = load(given, file=file, defaults=defaults)
    model = config.engine.model
    if not model:
        raise ConfigError(
            "model", f"name a model folder ({program()} serve FOLDER), or use the built-in one: {program()} demo"
        )
    path = local_model(model)
    if problem := cannot_listen(config.server):
        raise problem
    if is_exposed(config.server) and not asyncio.run(has_live_key(config.store.resolved_database_url())):
        raise exposure(config.server)
    console = Console()
    give_up_on_signals(console)
    path = path or fetch_model(model, console)
    # Until torch is there nothing can be logged, so as a log nothing is said yet.
    with phase(console, "starting") if config.server.log_format == "console" else nullcontext():
        lean_imports.prepare()
        from chatpager.cli.serving import serve_model
    gc.freeze()  # what was imported stays: nobody looks through it any more
    serve_model(config, path, console, browser=browser)
    leave(0)


@app.command(epilog="Example: chatpager chat --session conv_...")
@on_server
def chat(
    server: Remote,
    session: Annotated[str | None, typer.Option(help="session to go on with (conv_...); default: a new one")] = None,
    thoughts: Annotated[bool, typer.Option(help="show what the model thinks before it answers")] = True,
) -> None:
    """Chat with a server that is running: in the terminal, or line by line from a pipe."""
    from chatpager.cli.chatting import chat_in_terminal

    chat_in_terminal(server.url, session, server.api_key, server.again, thoughts=thoughts)


@app.command(epilog="Example: chatpager doctor --model Qwen/Qwen3-0.6B --json")
@with_settings("engine", "server", "store", defaults=SERVE_DEFAULTS)
def doctor(
    settings: dict[str, Any],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, the settings, the model and the database, and say what to do about what is wrong."""
    from chatpager.cli.leaving import leave

    gc.disable()
    from chatpager.cli.doctor import examine

    leave(asyncio.run(examine(settings, config, SERVE_DEFAULTS, as_json=as_json)))


@db.command("upgrade", epilog="Example: chatpager db upgrade --data-dir /srv/chatpager")
@with_settings("store")
def db_upgrade(settings: dict[str, Any], config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the database, or bring its schema up to date; only servers that share it may run on it meanwhile."""
    from chatpager.config_sources import load
    from chatpager.store import Store, schema

    store = load(settings, file=config).store

    async def upgrade() -> None:
        await (await Store.open(store.resolved_database_url(), migrate=True, share=store.share_database)).close()

    asyncio.run(upgrade())
    tell({"revision": schema.head()}, f"the database is at revision {schema.head()}", as_json=as_json)


@settings_app.command("show", epilog="Example: chatpager config show --json")
@with_settings("engine", "server", "store", defaults=SERVE_DEFAULTS)
def config_show(
    settings: dict[str, Any],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Every setting, its value, and where the value came from, as `serve` has them; `demo` has a few defaults of its
    own, which its --help shows."""
    from chatpager.cli.settings import show

    show(settings, config, SERVE_DEFAULTS, as_json=as_json)


def has_display() -> bool:
    """Whether a browser could open here for somebody."""
    if os.environ.get("CI"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
