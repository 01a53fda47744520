"""``chatpager config show``."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.config_sources import load
from chatpager.server.shown_settings import shown_settings


def show(given: dict[str, Any], file: str | None, defaults: dict[str, Any], *, as_json: bool) -> None:
    told = list(shown_settings(load(given, file=file, defaults=defaults)))
    rows = [
        {"section": each.setting.section, "name": each.setting.name, "value": each.value, "source": each.source}
        for each in told
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("setting", "value", "source", "variable", box=None)
    for s, value, source in told:
        style = None if source != "default" else "dim"
        cells = (f"{s.section}.{s.name}", str(value), source, s.env)
        table.add_row(*map(Text, cells), style=style)
    # Names and paths are there to be copied: a pipe gets them whole.
    Console(width=None if sys.stdout.isatty() else 400).print(table)
