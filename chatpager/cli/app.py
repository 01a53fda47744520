"""Every command, with what it imports imported only when it runs."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated, Any

import typer

from chatpager import __version__
from chatpager.cli import prefixes, remote
from chatpager.cli.benches import bench_app
from chatpager.cli.flags import with_settings
from chatpager.cli.keys import has_live_key, keys
from chatpager.errors import ConfigError
from chatpager.program import program

app = typer.Typer(
    name="chatpager",
    help="A session-first chat server: it owns the conversation and computes only what is new.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
db = typer.Typer(help="The database.", no_args_is_help=True)
settings_app = typer.Typer(help="The settings.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(settings_app, name="config")
app.add_typer(remote.sessions, name="sessions")
app.add_typer(prefixes.cache, name="cache")
app.add_typer(keys, name="keys")
app.add_typer(bench_app, name="bench")

ConfigFile = Annotated[str | None, typer.Option("--config", help="settings file; default: ./chatpager.toml, then XDG")]

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


@app.command()
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


@app.command()
@with_settings("engine", "server", "store", leave_out={"model"}, defaults=SERVE_DEFAULTS)
def serve(
    settings: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help="model folder, or a name on the Hugging Face hub")] = None,
    config: ConfigFile = None,
) -> None:
    """Serve a model. Example: [bold]chatpager serve Qwen/Qwen3-0.6B --port 9000[/bold]"""
    _serve({**settings, "model": model}, config, SERVE_DEFAULTS, browser=False)


def _serve(given: dict[str, Any], file: str | None, defaults: dict[str, Any], *, browser: bool) -> None:
    """What the settings alone tell to be wrong is told at once: importing torch takes seconds."""
    from chatpager.config import load
    from chatpager.server.access import exposure, is_exposed

    config = load(given, file=file, defaults=defaults)
    if is_exposed(config.server) and not asyncio.run(has_live_key(config.store.resolved_database_url())):
        raise exposure(config.server)
    if not config.engine.model:
        raise ConfigError(
            "model", f"name a model folder ({program()} serve FOLDER), or use the built-in one: {program()} demo"
        )
    from chatpager.cli.serving import serve_model

    serve_model(config, browser=browser)


@app.command()
def chat(
    session: Annotated[str | None, typer.Option(help="session to go on with (conv_...); default: a new one")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="CHATPAGER_URL", help="the server's address; default: from the settings")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="the server's key; default: from the settings")] = None,
    config: ConfigFile = None,
) -> None:
    """Chat with a server that is running: in the terminal, or line by line from a pipe."""
    from chatpager.cli.chatting import chat_in_terminal
    from chatpager.config import load

    server = load({"api_key": api_key}, file=config).server
    again = f" --url {url}" if url else ""
    chat_in_terminal(url or address(server.host, server.port), session, server.api_key, again)


@app.command()
@with_settings("engine", "server", "store", defaults=SERVE_DEFAULTS)
def doctor(
    settings: dict[str, Any],
    config: ConfigFile = None,
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Check this machine, the settings, the model and the database, and say what to do about what is wrong."""
    from chatpager.cli.doctor import examine

    raise typer.Exit(asyncio.run(examine(settings, config, SERVE_DEFAULTS, as_json=json)))


@db.command("upgrade")
@with_settings("store")
def db_upgrade(settings: dict[str, Any], config: ConfigFile = None) -> None:
    """Make the database, or bring its schema up to date; no server may run on it meanwhile."""
    from chatpager.config import load
    from chatpager.store import Store, schema

    async def upgrade(url: str) -> None:
        await (await Store.open(url, migrate=True)).close()

    asyncio.run(upgrade(load(settings, file=config).store.resolved_database_url()))
    typer.echo(f"the database is at revision {schema.head()}")


@settings_app.command("show")
@with_settings("engine", "server", "store", defaults=SERVE_DEFAULTS)
def config_show(
    settings: dict[str, Any],
    config: ConfigFile = None,
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Every setting, its value, and where the value came from, as `serve` has them; `demo` has a few defaults of its
    own, which its --help shows."""
    from chatpager.cli.settings import show

    show(settings, config, SERVE_DEFAULTS, as_json=json)


def has_display() -> bool:
    """Whether a browser could open here for somebody."""
    if os.environ.get("CI"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens there."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
