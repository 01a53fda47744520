"""A measurement's figures as a .json file, and as a page beside it that needs nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatpager.bench import plot

Row = Mapping[str, Any]


def save(result: Mapping[str, Any], out: str | None, charts: Sequence[str] = ()) -> None:
    """``what`` of the result is the page's title; its rows become tables, and the rest is shown as it stands.

    Raises:
        OSError: the files cannot be written.
    """
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
        Path(out).with_suffix(".html").write_text(page(result, charts))


def page(result: Mapping[str, Any], charts: Sequence[str] = ()) -> str:
    rows = {name: found for name, value in result.items() if (found := _rows(value))}
    rest = {name: value for name, value in result.items() if name not in ("what", *rows)}
    tables = [table(found, name.replace("_", " ")) for name, found in rows.items()]
    return plot.page(result["what"], [*charts, *tables], json.dumps(rest, indent=2))


def _rows(value: Any) -> list[Row] | None:
    """Those of a list, or of objects under names; None where a cell would hold more than one figure."""
    if isinstance(value, Mapping):
        value = [{"": name, **one} if isinstance(one, Mapping) else one for name, one in value.items()]
    if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) for one in value):
        return None
    flat = all(not isinstance(cell, list | Mapping) for one in value for cell in one.values())
    return value if flat else None


def table(rows: Sequence[Row], title: str) -> str:
    """A column for every name that any row has, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [_line("th", names), *(_line("td", [row.get(name, "") for name in names]) for row in rows)]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"


def _line(kind: str, cells: Sequence[object]) -> str:
    said = ("" if cell is None else str(cell) for cell in cells)
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in said) + "</tr>"
