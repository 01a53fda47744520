"""The figures of ``bench seeds`` as a table in the terminal and as a page."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from chatpager.bench import plot, report

HEADS = ("what", "theirs (second-hand)", "ours", "static baseline", "why it differs")
FIELDS = ("title", "theirs", "ours", "static", "why")


def show(result: dict[str, Any]) -> None:
    """A block of lines for each row, which a terminal of any width has room for."""
    table = Table(title=_title(result), show_header=False, show_edge=False)
    for row in result["rows"]:
        for head, name in zip(HEADS, FIELDS, strict=True):
            table.add_row(head, row[name], end_section=name == FIELDS[-1], style="bold" if name == FIELDS[0] else "")
    Console().print(table)


def page(result: dict[str, Any]) -> str:
    figures = {row["key"]: row["figures"] for row in result["rows"]}
    charts = [_table(result)]
    if "waste" in figures:
        over = figures["waste"]["over_the_run"]
        places = [f"{5 * i} %" if i % 4 == 0 else "" for i in range(len(over["ours"]))]
        # In the order, and so in the colours, of the other charts.
        series = {name: [100 * share for share in over[name]] for name in ("static", "ours")}
        charts.append(plot.lines("Reserved KV memory that holds no token, over the run", places, series, " %"))
    if "blocks" in figures:
        charts += _of_block_sizes(figures["blocks"])
    about = {name: value for name, value in result.items() if name != "rows"}
    return plot.page(_title(result), charts, json.dumps(about, indent=2))


def _title(result: dict[str, Any]) -> str:
    return f"The yardsticks of PagedAttention; {result['parameters'] / 1e6:.0f}M parameters, float32"


def _table(result: dict[str, Any]) -> str:
    rows = [{head: row[name] for head, name in zip(HEADS, FIELDS, strict=True)} for row in result["rows"]]
    return report.table(rows, "each figure beside those that are told of others")


def _of_block_sizes(figures: dict[str, Any]) -> list[str]:
    ours, static = figures["ours"], figures["static"]

    def values(fact: str, factor: float = 1.0) -> list[float]:
        return [factor * found[fact] for found in ours.values()]

    places = list(ours)
    wastes = {"static": [100 * static["waste"]] * len(places), "ours": values("waste", 100.0)}
    speeds = {"static": [static["decode"]] * len(places), "ours": values("decode")}
    return [
        plot.lines("Reserved KV memory that holds no token, by block size", places, wastes, " %"),
        plot.lines("Tables and bookkeeping of a step, by block size", places, {"ours": values("own_ms")}, " ms"),
        plot.lines("Decoding, by block size", places, speeds, " tokens/s"),
    ]
