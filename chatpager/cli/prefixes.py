"""``chatpager cache publish | prefixes | withdraw``: what conversations of every tenant begin with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from chatpager.cli.remote import TIERS, WIDE, AsJson, ConfigFile, Key, Url, cache, print_json, request
from chatpager.errors import ConfigError

__all__ = ["cache"]

Label = Annotated[str, typer.Argument(metavar="LABEL", help="its name: letters, digits, . _ -")]


@cache.command()
def publish(
    label: Label,
    instructions_file: Annotated[Path, typer.Option(help="the instructions (system prompt), UTF-8; - is the input")],
    ttl: Annotated[float | None, typer.Option(help="seconds that it is kept on the device, up to a day")] = None,
    url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Share the KV blocks of instructions between all tenants whose conversations begin with them."""
    if ttl is not None and not 0 < ttl < float("inf"):
        raise typer.BadParameter("a number of seconds above 0", param_hint="--ttl")
    body = {"label": label, "instructions": _read(instructions_file).removesuffix("\n"), "ttl": ttl}
    found = request("POST", "/v1/prefixes", body, url, api_key, config)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['status']}: {found['tokens']:,} tokens in {found['blocks']:,} blocks")
    if pin := found["pin"]:
        typer.echo(f"{pin['status']}: {pin['tokens']:,} tokens on the device for {pin['expires_in']:.0f} s")


@cache.command()
def prefixes(url: Url = None, api_key: Key = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What is published, where it is, and how many conversations begin with it."""
    found = request("GET", "/v1/prefixes", None, url, api_key, config)["data"]
    if as_json:
        print_json(found)
        return
    table = Table("label", "status", "tokens", *TIERS, "conversations", "leases", box=None)
    for one in found:
        leases = ", ".join(f"{lease['strength']} {lease['seconds_left']:.0f} s" for lease in one["leases"])
        counts = (one["tokens"], *(one[f"{tier}_tokens"] for tier in TIERS), one["sessions"])
        table.add_row(one["label"], one["status"], *(f"{count:,}" for count in counts), leases or "-")
    Console(width=WIDE).print(table)


@cache.command()
def withdraw(label: Label, url: Url = None, api_key: Key = None, config: ConfigFile = None) -> None:
    """End the sharing of what was published; conversations keep what they have until their next turn."""
    if not label.strip():
        raise typer.BadParameter("is empty", param_hint="LABEL")
    request("DELETE", f"/v1/prefixes/{quote(label, safe='')}", None, url, api_key, config)
    typer.echo("withdrawn")


def _read(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return raw.decode()
    except OSError as error:
        raise ConfigError("instructions_file", error.strerror or str(error), value=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("instructions_file", "is no UTF-8 text", value=str(path)) from error
