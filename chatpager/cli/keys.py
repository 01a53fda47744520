"""``chatpager keys``: makes, lists and revokes API keys in the database itself, also while a server runs on it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.cli.flags import with_settings
from chatpager.cli.remote import WIDE, AsJson, ConfigFile, print_json, tell
from chatpager.errors import ConfigError, NotUpgraded, StoreError
from chatpager.program import program

if TYPE_CHECKING:
    from chatpager.store import ApiKey, Store

keys = typer.Typer(
    help="API keys: who may use the server, and for which tenant.",
    epilog="Example: chatpager keys create --tenant ann --name laptop",
    no_args_is_help=True,
)
T = TypeVar("T")
MAX_DAYS = 36_500


@keys.command(epilog="Example: chatpager keys create --tenant ann --name laptop")
@with_settings("store")
def create(
    settings: dict[str, Any],
    tenant: Annotated[str, typer.Option(help="whose conversations and cache the key opens")],
    name: Annotated[str, typer.Option(help="what the key is for, as the list shows it")] = "",
    role: Annotated[
        str, typer.Option(help="user; admin: sees what is the whole server's too; read-only: that alone")
    ] = "user",
    days: Annotated[float | None, typer.Option(help="how long it opens anything; for ever by default")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once. A server of this database asks for a key from then on."""
    from chatpager.store import new_key

    now = _now()
    made, key = new_key(tenant, name, role, now, expires_at=None if days is None else _after(now, days))
    _with_store(settings, config, lambda store: store.keys.create(made), migrate=True)
    if as_json:
        print_json({**_row(made), "key": key})
    else:
        typer.echo(key)
    typer.echo(f"{made.id}, {made.role} of tenant {made.tenant}: the key is shown only now", err=True)
    typer.echo("servers of this database ask for a key from now on", err=True)


@keys.command("list", epilog="Example: chatpager keys list --json")
@with_settings("store")
def list_keys(
    settings: dict[str, Any],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Every key: whose it is, how it begins, whether it was revoked, and when it expires."""
    found = _with_store(settings, config, lambda store: store.keys.every())
    if as_json:
        print_json([_row(key) for key in found])
        return
    table = Table("id", "tenant", "role", "key", "made", "revoked", "expires", "name", box=None)
    for key in found:
        times = (_time(at) or "-" for at in (key.created_at, key.revoked_at, key.expires_at))
        table.add_row(key.id, key.tenant, key.role, f"{key.prefix}...", *times, Text(key.name))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


@keys.command(epilog="Example: chatpager keys revoke key_...")
@with_settings("store")
def revoke(
    settings: dict[str, Any],
    id: Annotated[str, typer.Argument(metavar="ID", help="of the key (key_...), as the list shows it")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good. A running server refuses it within seconds."""
    key = _with_store(settings, config, lambda store: store.keys.revoke(id, now=_now()))
    tell(_row(key), f"{key.id} of tenant {key.tenant} is revoked", as_json=as_json)


async def has_live_key(url: str) -> bool:
    """Whether a key opens a server of this database; none does where there is none yet, or one of an older chatpager.

    Raises:
        ConfigError, StoreError: the URL is wrong, or the database is away.
    """
    from chatpager.store import Store, address, schema

    if address.missing_file(url) or await schema.current(url) != schema.head():
        return False
    store = await Store.open(url, migrate=False)
    try:
        return any(key.opens(_now()) for key in await store.keys.every())
    finally:
        await store.close()


def _with_store(
    settings: dict[str, Any], file: str | None, work: Callable[[Store], Awaitable[T]], *, migrate: bool = False
) -> T:
    """``migrate`` makes the database, or brings it up to date, where no server runs on it."""
    from chatpager.config_sources import load
    from chatpager.store import Store

    async def run(url: str) -> T:
        try:
            store = await Store.open(url, migrate=migrate)
        except NotUpgraded as error:
            raise StoreError(f"{error}; run `{program()} db upgrade{_given(settings, file)}`") from error
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run(load(settings, file=file).store.resolved_database_url()))


def _given(settings: Mapping[str, Any], file: str | None) -> str:
    """The flags that named this database, for another command; a password in them is not shown again."""
    from sqlalchemy.engine import make_url

    from chatpager.store import address

    found = {f"--{name.replace('_', '-')}": value for name, value in settings.items() if value is not None}
    if "--database-url" in found:
        found["--database-url"] = address.shown(make_url(found["--database-url"]))
    if file is not None:
        found["--config"] = file
    return "".join(f" {flag} {shlex.quote(value)}" for flag, value in found.items())


def _row(key: ApiKey) -> dict[str, Any]:
    """For programs; times in seconds since the epoch, as in the wire's objects."""
    shown = {name: getattr(key, name) for name in ("id", "tenant", "role", "name", "prefix")}
    times = {name: getattr(key, name) for name in ("created_at", "revoked_at", "expires_at")}
    return shown | {name: None if at is None else at // 1000 for name, at in times.items()}


def _time(at: int | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _after(now: int, days: float) -> int:
    if not 0 < days <= MAX_DAYS:
        raise ConfigError("days", f"is a number above 0, and at most {MAX_DAYS}", value=days)
    return now + round(days * 86_400_000)


def _now() -> int:
    return time.time_ns() // 1_000_000
