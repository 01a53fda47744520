"""``chatpager cache``: what a running server's KV cache holds, for whom, and why a prompt found no more of it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from chatpager.cli.remote import WIDE, AsJson, Remote, on_server, one_line, print_json
from chatpager.errors import ChatpagerError

cache = typer.Typer(
    help="The KV cache of a running server.", epilog="Example: chatpager cache stats", no_args_is_help=True
)
TIERS = ("device", "host", "disk")
BROKEN = {"failed_writes": "blocks could not be written", "bad_files": "files were not what they should be"}


@cache.command(epilog="Example: chatpager cache stats --json")
@on_server
def stats(server: Remote, as_json: AsJson = False) -> None:
    """What the KV cache holds on each tier, and what it saved since the server's start."""
    health = server.request("GET", "/health")
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


@cache.command(epilog="Example: chatpager cache top --limit 5")
@on_server
def top(
    server: Remote,
    limit: Annotated[int, typer.Option(help="conversations at the most", min=1, max=100)] = 20,
    as_json: AsJson = False,
) -> None:
    """Who has most of the device's cache, in tokens."""
    found = server.request("GET", f"/v1/cache/top?limit={limit}")["data"]
    if as_json:
        print_json(found)
        return
    table = Table("conversation", *TIERS, "shared", "leases", "tenant", box=None)
    for one in found:
        leases = ", ".join(f"{lease['strength']} {lease['seconds_left']:.0f} s" for lease in one["leases"])
        tokens = (f"{one[f'{name}_tokens']:,}" for name in (*TIERS, "shared"))
        table.add_row(one["id"], *tokens, leases or "-", one["tenant"])
    Console(width=WIDE).print(table)


@cache.command(epilog="Example: chatpager cache explain resp_... resp_...")
@on_server
def explain(
    server: Remote,
    first: Annotated[str, typer.Argument(metavar="A", help="response (resp_...) or conversation (its last response)")],
    second: Annotated[str, typer.Argument(metavar="B", help="the same, of what should have shared A's prefix")],
    as_json: AsJson = False,
) -> None:
    """Where the prompts of two responses part, and how much of them can be shared."""
    path = f"/v1/cache/explain?first={quote(first, safe='')}&second={quote(second, safe='')}"
    found = server.request("GET", path)
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


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
