"""``chatpager sessions`` and ``chatpager cache``: what a running server keeps, and for whom."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.cli.refusals import refusal
from chatpager.errors import ChatpagerError, ConfigError
from chatpager.program import program

if TYPE_CHECKING:
    from chatpager.client import AsyncClient

sessions = typer.Typer(help="Conversations on a running server: list, pin, fork, delete.", no_args_is_help=True)
cache = typer.Typer(help="The KV cache of a running server.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="conversation (conv_...)")]
Url = Annotated[
    str | None, typer.Option(envvar="CHATPAGER_URL", help="the server's address; default: from the settings")
]
Key = Annotated[str | None, typer.Option(help="the server's key; default: from the settings")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="settings file; default: ./chatpager.toml, then XDG")]
T = TypeVar("T")
WIDE = 10_000
TIERS = ("device", "host", "disk")
BROKEN = {"failed_writes": "blocks could not be written", "bad_files": "files were not what they should be"}
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


@sessions.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(help="conversations at the most", min=1, max=100)] = 20,
    url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """The conversations, the latest activity first."""
    found = call(url, api_key, config, lambda client: client.sessions(limit))
    if as_json:
        print_json(found)
        return
    table = Table(box=None)
    table.add_column("conversation", no_wrap=True, min_width=max((len(one["id"]) for one in found), default=0))
    table.add_column("last activity", no_wrap=True, min_width=len("2026-01-01 00:00"))
    table.add_column("title", no_wrap=True, overflow="ellipsis")
    for conversation in found:
        facts = conversation["chatpager"]
        last = datetime.fromtimestamp(facts["updated_at"], UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        origin = f"  (of {facts['forked_from']})" if facts["forked_from"] else ""
        table.add_row(Text(conversation["id"]), last, Text(one_line(facts["title"] or "") + origin))
    # Nothing is cut in a pipe: no line is too wide for a program.
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    if len(found) == limit:
        typer.echo(f"the latest {limit}; --limit (up to 100) shows more", err=True)


@sessions.command()
def show(
    session_id: Id, url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Where a conversation's prefix is, and what keeps it there."""
    found = request("GET", f"{_path(session_id)}/cache", None, url, api_key, config)
    if as_json:
        print_json(found)
        return
    where = ", ".join(f"{found[f'{tier}_tokens']:,} {tier}" for tier in ("device", "host", "disk"))
    typer.echo(f"{found['tokens']:,} tokens: {where}; {found['shared_tokens']:,} shared with others")
    for lease in found["leases"]:
        why = f": {lease['reason']}" if lease["reason"] else ""
        typer.echo(f"{lease['strength']} lease on {lease['tokens']:,} tokens for {lease['seconds_left']:.0f} s{why}")


@sessions.command()
def pin(
    session_id: Id,
    ttl: Annotated[float | None, typer.Option(help="seconds, up to a day; default: a minute")] = None,
    tokens: Annotated[int | None, typer.Option(help="only so many from its beginning; default: all", min=1)] = None,
    soft: Annotated[bool, typer.Option(help="prefer it to others' instead of keeping it at any price")] = False,
    url: Url = None, api_key: Key = None, config: ConfigFile = None,
) -> None:  # fmt: skip
    """Keep a conversation's prefix on the device."""
    if ttl is not None and not 0 < ttl < float("inf"):
        raise typer.BadParameter("a number of seconds above 0", param_hint="--ttl")
    wishes = {"ttl": ttl, "tokens": tokens}
    body = {"strength": "soft" if soft else "hard", **{k: v for k, v in wishes.items() if v is not None}}
    found = request("PUT", f"{_path(session_id)}/pin", body, url, api_key, config)
    typer.echo(f"{found['status']}: {found['strength']}, {found['tokens']:,} tokens for {found['expires_in']:.0f} s")


@sessions.command()
def unpin(session_id: Id, url: Url = None, api_key: Key = None, config: ConfigFile = None) -> None:
    """End a conversation's leases."""
    request("DELETE", f"{_path(session_id)}/pin", None, url, api_key, config)
    typer.echo("released")


@sessions.command()
def fork(
    session_id: Id,
    at: Annotated[str | None, typer.Option(help="the response (resp_...) to fork after; default: the last")] = None,
    url: Url = None, api_key: Key = None, config: ConfigFile = None,
) -> None:  # fmt: skip
    """A new conversation that begins with this one's messages; nothing is copied."""
    child = request("POST", f"{_path(session_id)}/fork", {"at": at} if at else {}, url, api_key, config)
    typer.echo(child["id"])
    typer.echo(f"go on with it: {program()} chat --session {child['id']}{f' --url {url}' if url else ''}", err=True)


@sessions.command()
def rewind(
    session_id: Id,
    to: Annotated[str, typer.Argument(metavar="RESPONSE", help="the answer (resp_...) to end with again")],
    url: Url = None, api_key: Key = None, config: ConfigFile = None,
) -> None:  # fmt: skip
    """Go back to an earlier answer of a conversation; what came after it is left, not deleted."""
    request("POST", f"{_path(session_id)}/rewind", {"to": to}, url, api_key, config)
    typer.echo("rewound")


@sessions.command()
def delete(session_id: Id, url: Url = None, api_key: Key = None, config: ConfigFile = None) -> None:
    """Delete a conversation: its messages, its answers, its blocks on the disk."""
    request("DELETE", _path(session_id), None, url, api_key, config)
    typer.echo("deleted")


@cache.command()
def stats(url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What the KV cache holds on each tier, and what it saved since the server's start."""
    health = request("GET", "/health", None, url, api_key, config)
    if as_json:
        print_json({name: health.get(name) for name in ("kv", "tiers", "cache")})
        return
    if "kv" not in health:
        raise ChatpagerError(f"the server's engine tells nothing: it is {health['status']}")
    kv, tiers, counts = health["kv"], health["tiers"], health["cache"]
    disk = tiers["disk"]
    blocks = ", ".join(f"{kv[state]:,} {state}" for state in ("active", "cached", "free"))
    typer.echo(f"device  {kv['blocks']:,} blocks of {kv['block_size']} tokens: {blocks}")
    for tier in ("host", "disk"):
        typer.echo(f"{tier}    {_mib(tiers[tier]['bytes'])} of {_mib(tiers[tier]['capacity_bytes'])}")
    asked = counts["queried_tokens"]
    share = f" ({counts['hit_tokens'] / asked:.0%})" if asked else ""
    below = ", ".join(f"{counts[f'{tier}_hit_tokens']:,} from {tier}" for tier in ("host", "disk"))
    typer.echo(f"hits    {counts['hit_tokens']:,} of {asked:,} prompt tokens{share}; {below}")
    typer.echo(f"lost    {counts['lost_tokens']:,} tokens had been evicted before they were wanted again")
    if broken := [f"{disk[name]:,} {words}" for name, words in BROKEN.items() if disk[name]]:
        typer.echo(f"broken  {'; '.join(broken)}: see the server's log, and the folder kv under its data folder")


@cache.command()
def top(
    limit: Annotated[int, typer.Option(help="conversations at the most", min=1, max=100)] = 20,
    url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Who has most of the device's cache, in tokens."""
    found = request("GET", f"/v1/cache/top?limit={limit}", None, url, api_key, config)["data"]
    if as_json:
        print_json(found)
        return
    table = Table("conversation", *TIERS, "shared", "leases", "tenant", box=None)
    for one in found:
        leases = ", ".join(f"{lease['strength']} {lease['seconds_left']:.0f} s" for lease in one["leases"])
        tokens = (f"{one[f'{name}_tokens']:,}" for name in (*TIERS, "shared"))
        table.add_row(one["id"], *tokens, leases or "-", one["tenant"])
    Console(width=WIDE).print(table)


@cache.command()
def explain(
    first: Annotated[str, typer.Argument(metavar="A", help="response (resp_...) or conversation (its last response)")],
    second: Annotated[str, typer.Argument(metavar="B", help="the same, of what should have shared A's prefix")],
    url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Where the prompts of two responses part, and how much of them can be shared."""
    path = f"/v1/cache/explain?first={quote(first, safe='')}&second={quote(second, safe='')}"
    found = request("GET", path, None, url, api_key, config)
    if as_json:
        print_json(found)
        return
    common = found["common_tokens"]
    typer.echo(
        f"{found['first']}: {found['first_tokens']:,} tokens; {found['second']}: {found['second_tokens']:,} tokens"
    )
    typer.echo(f"the first {common:,} are the same: {found['reusable_tokens']:,} need not be computed again")
    if not found["same_model"]:
        typer.echo("they were asked of different models, which share nothing")
    parted = found["diverged"]
    if parted is None:
        typer.echo("one is the beginning of the other")
        return
    place = f" in message {parted['message']} ({parted['role']})" if parted["message"] is not None else ""
    typer.echo(f"they part at token {parted['token']:,}{place}:")
    typer.echo(f"  A  {one_line(repr(parted['first']))}")
    typer.echo(f"  B  {one_line(repr(parted['second']))}")


def one_line(text: str) -> str:
    """``text`` without what a terminal obeys, and without what ends a line or turns it round."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _path(session_id: str) -> str:
    if not session_id.strip():
        raise typer.BadParameter("is empty", param_hint="ID")
    return f"/v1/conversations/{quote(session_id, safe='')}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def request(
    method: str, path: str, body: object, url: str | None, api_key: str | None, config: str | None
) -> dict[str, Any]:
    return call(url, api_key, config, lambda client: client.request(method, path, body))


def call(url: str | None, api_key: str | None, file: str | None, ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Raises ChatpagerError: the server refused, or is not there."""
    from chatpager.cli.app import address
    from chatpager.client import AsyncClient, ClientError
    from chatpager.config import load

    server = load({"api_key": api_key}, file=file).server

    async def ask_it(client: AsyncClient) -> T:
        async with client:
            return await ask(client)

    try:
        return asyncio.run(ask_it(AsyncClient(url or address(server.host, server.port), api_key=server.api_key)))
    except ValueError as error:
        raise ConfigError("url", str(error)) from error
    except ClientError as error:
        raise refusal(error, has_key=bool(server.api_key)) from error
