"""``chatpager tenants``: what a running server allows each of its tenants."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.cli.remote import WIDE, AsJson, Remote, on_server, print_json, tell
from chatpager.errors import ConfigError

tenants = typer.Typer(
    help="The tenants of a running server: their limits, pausing and erasing them. For admins.",
    epilog="Example: chatpager tenants limit ann --requests-per-minute 60",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="TENANT", help="whose name its keys have")]
LIMITS = ("requests_per_minute", "tokens_per_minute", "max_conversations")


@tenants.command("list", epilog="Example: chatpager tenants list --json")
@on_server
def list_tenants(
    server: Remote,
    search: Annotated[str, typer.Option(help="only those with these words in their name")] = "",
    as_json: AsJson = False,
) -> None:
    """Tenants by name, what each may ask for, and what is left of it."""
    found = server.request("GET", f"/v1/admin/tenants?search={quote(search, safe='')}")
    if as_json:
        print_json(found)
        return
    table = Table(
        "tenant", "state", "conversations", "keys", "running", "requests a minute", "tokens a minute", box=None
    )
    for one in found["data"]:
        conversations = f"{one['conversations']:,}{_of(one['max_conversations'])}"
        rates = (_rate(one, "requests"), _rate(one, "tokens"))
        state = "open" if one["paused_at"] is None else "paused"
        table.add_row(Text(one["id"]), state, conversations, f"{one['keys']:,}", f"{one['running']:,}", *rates)
    for one in found["keys"]:
        table.add_row(Text(one["id"]), "key", "-", "-", "-", _rate(one, "requests"), _rate(one, "tokens"))
    Console(width=WIDE).print(table)
    shown, there = table.row_count, found["tenants_in_all"] + found["keys_in_all"]
    if shown < there:
        typer.echo(f"{shown:,} of {there:,}: --search finds the others")


@tenants.command(epilog="Example: chatpager tenants limit ann --requests-per-minute 60 --tokens-per-minute 100000")
@on_server
def limit(
    server: Remote,
    tenant: Name,
    key: Annotated[str | None, typer.Option(help="only this key (key_...) of it")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="default: as the settings say")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="default: as the settings say")] = None,
    max_conversations: Annotated[int | None, typer.Option(help="default: as the settings say")] = None,
    weight: Annotated[int | None, typer.Option(help="waiting turns begun in each round; default: 1")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a tenant may ask for from now on, in place of what was said before."""
    wanted = dict(zip(LIMITS, (requests_per_minute, tokens_per_minute, max_conversations), strict=True))
    path = _path(tenant, "/limits")
    if key is not None:
        if wanted.pop("max_conversations") is not None or weight is not None:
            raise ConfigError("key", "has neither --max-conversations nor --weight: they are its tenant's", value=key)
        path = f"/v1/admin/keys/{quote(key, safe='')}/limits?tenant={quote(tenant, safe='')}"
    else:
        wanted["weight"] = weight
    found = server.request("PUT", path, wanted)
    told = ", ".join(f"{found[name]:,} {name}" for name in LIMITS if found[name] is not None)
    tell(found, f"{found['id']}: {told or 'no limits'}", as_json=as_json)


@tenants.command(epilog="Example: chatpager tenants pause ann")
@on_server
def pause(server: Remote, tenant: Name, as_json: AsJson = False) -> None:
    """Let it begin nothing; what runs goes on to its end, and what it has is kept."""
    tell(server.request("POST", _path(tenant, "/pause")), f"{tenant} is paused", as_json=as_json)


@tenants.command(epilog="Example: chatpager tenants resume ann")
@on_server
def resume(server: Remote, tenant: Name, as_json: AsJson = False) -> None:
    """Let a tenant that was paused go on."""
    tell(server.request("POST", _path(tenant, "/resume")), f"{tenant} goes on", as_json=as_json)


@tenants.command(epilog="Example: chatpager tenants erase ann --yes")
@on_server
def erase(
    server: Remote,
    tenant: Name,
    yes: Annotated[bool, typer.Option("--yes", help="nobody can bring it back")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all that a paused tenant said and was answered, also on the disk, and revoke its keys."""
    if not yes:
        raise ConfigError("yes", f"all of {tenant} is deleted, for good; say --yes if that is meant")
    found: dict[str, Any] = server.request("DELETE", _path(tenant))
    words = f"{found['conversations']:,} conversations, {found['turns']:,} other answers, {found['keys']:,} keys"
    tell(found, f"erased {tenant}: {words}", as_json=as_json)


def _path(tenant: str, act: str = "") -> str:
    if not tenant.strip():
        raise typer.BadParameter("is empty", param_hint="TENANT")
    return f"/v1/admin/tenants/{quote(tenant, safe='')}{act}"


def _rate(one: dict[str, Any], what: str) -> str:
    most, left = one[f"{what}_per_minute"], one[f"{what}_left"]
    return "any" if most is None else f"{most:,}, {left:,} left"


def _of(most: int | None) -> str:
    return "" if most is None else f" of {most:,}"
