"""``chatpager config show``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.config import load, settings
from chatpager.store import address


def _without_password(url: str) -> str:
    parsed = address.parse(url)
    return url if address.is_sqlite(parsed) else address.shown(parsed)


SECRETS: dict[str, Callable[[str], str]] = {
    "api_key": lambda _: "(set)",
    "database_url": _without_password,
}


def show(given: dict[str, Any], file: str | None, defaults: dict[str, Any], *, as_json: bool) -> None:
    config = load(given, file=file, defaults=defaults)
    rows = []
    for s in settings():
        value = getattr(getattr(config, s.section), s.name)
        shown = SECRETS[s.name](value) if s.name in SECRETS and value else value
        rows.append(
            {"section": s.section, "name": s.name, "value": shown, "source": config.sources.get(s.name, "default")}
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("setting", "value", "source", "variable", box=None)
    for row, s in zip(rows, settings(), strict=True):
        style = None if row["source"] != "default" else "dim"
        cells = (f"{s.section}.{s.name}", str(row["value"]), row["source"], s.env)
        table.add_row(*map(Text, cells), style=style)
    # Names and paths are there to be copied: a pipe gets them whole.
    Console(width=None if sys.stdout.isatty() else 400).print(table)
