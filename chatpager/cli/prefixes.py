"""``chatpager cache publish | prefixes | withdraw``: what conversations of every tenant begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from chatpager.cli.cache import TIERS, cache
from chatpager.cli.reading import read_text
from chatpager.cli.remote import WIDE, AsJson, Remote, on_server, print_json, tell
from chatpager.cli.sessions import check_seconds

__all__ = ["cache"]

Label = Annotated[str, typer.Argument(metavar="LABEL", help="its name: letters, digits, . _ -")]


@cache.command(epilog="Example: chatpager cache publish rules --instructions-file rules.txt --ttl 3600")
@on_server
def publish(
    server: Remote,
    label: Label,
    instructions_file: Annotated[Path, typer.Option(help="the instructions (system prompt), UTF-8; - is the input")],
    ttl: Annotated[float | None, typer.Option(help="seconds that it is kept on the device, up to a day")] = None,
    as_json: AsJson = False,
) -> None:
    """Share the KV blocks of instructions between all tenants whose conversations begin with them."""
    check_seconds(ttl, "--ttl")
    body = {
        "label": label,
        "instructions": read_text(instructions_file, "instructions_file").removesuffix("\n"),
        "ttl": ttl,
    }
    found = server.request("POST", "/v1/prefixes", body)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['status']}: {found['tokens']:,} tokens in {found['blocks']:,} blocks")
    if pin := found["pin"]:
        typer.echo(f"{pin['status']}: {pin['tokens']:,} tokens on the device for {pin['expires_in']:.0f} s")


@cache.command(epilog="Example: chatpager cache prefixes --json")
@on_server
def prefixes(server: Remote, as_json: AsJson = False) -> None:
    """What is published, where it is, and how many conversations begin with it."""
    found = server.request("GET", "/v1/prefixes")["data"]
    if as_json:
        print_json(found)
        return
    table = Table("label", "status", "tokens", *TIERS, "conversations", "leases", box=None)
    for one in found:
        leases = ", ".join(f"{lease['strength']} {lease['seconds_left']:.0f} s" for lease in one["leases"])
        counts = (one["tokens"], *(one[f"{tier}_tokens"] for tier in TIERS), one["sessions"])
        table.add_row(one["label"], one["status"], *(f"{count:,}" for count in counts), leases or "-")
    Console(width=WIDE).print(table)


@cache.command(epilog="Example: chatpager cache withdraw rules")
@on_server
def withdraw(server: Remote, label: Label, as_json: AsJson = False) -> None:
    """End the sharing of what was published; conversations keep what they have until their next turn."""
    if not label.strip():
        raise typer.BadParameter("is empty", param_hint="LABEL")
    tell(server.request("DELETE", f"/v1/prefixes/{quote(label, safe='')}"), "withdrawn", as_json=as_json)
