"""The figures of ``chatpager bench serve`` as tables for a terminal and as a page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chatpager.bench import plot

Figures = dict[str, Any]


class Row(NamedTuple):
    """A line of a table: what it is, and where it is found in a server's medians."""

    title: str
    path: tuple[str | int, ...]
    form: str = "{:,.0f} ms"


def rows(scenario: str, figures: Figures) -> list[Row]:
    """``figures`` are those of any server: they have the same form."""
    found = ROWS[scenario](figures)
    return [*found, Row("processors, others", ("cpu", "others"), "{:.1%}")]


def _single(figures: Figures) -> list[Row]:
    return [Row("decode", ("decode_tokens_per_s",), "{:,.1f} tok/s"), Row("first token", ("ttft_ms",))]


def _concurrency(figures: Figures) -> list[Row]:
    return [
        Row(f"{count} at once: {title}", (count, key), form)
        for count in figures
        if count != "cpu"
        for title, key, form in (
            ("output", "tokens_per_s", "{:,.1f} tok/s"),
            ("first token p50", "ttft_p50_ms", "{:,.0f} ms"),
            ("first token p95", "ttft_p95_ms", "{:,.0f} ms"),
            ("between tokens p50", "gap_p50_ms", "{:,.1f} ms"),
            ("between tokens p99", "gap_p99_ms", "{:,.1f} ms"),
        )
    ]


def _growing(figures: Figures) -> list[Row]:
    turns = [
        Row(f"turn {i + 1} ({tokens:,.0f} tokens)", ("ttft_ms", i)) for i, tokens in enumerate(figures["prompt_tokens"])
    ]
    return [*turns, Row("cold, as long", ("cold_ttft_ms",)), Row("cached of attainable", ("cached_share",), "{:.1%}")]


def _bursts(figures: Figures) -> list[Row]:
    return [
        Row(f"{name} burst: {title}", (name, key), form)
        for name in ("first", "second")
        for title, key, form in (
            ("first token p50", "ttft_p50_ms", "{:,.0f} ms"),
            ("first token p95", "ttft_p95_ms", "{:,.0f} ms"),
            ("cached of attainable", "cached_share", "{:.1%}"),
        )
    ]


def _returning(figures: Figures) -> list[Row]:
    return [
        *(
            Row(f"{name} turns: {title}", (name, key), form)
            for name in ("first", "second")
            for title, key, form in (
                ("first token p50", "ttft_p50_ms", "{:,.0f} ms"),
                ("first token p95", "ttft_p95_ms", "{:,.0f} ms"),
                ("all of them", "wall_s", "{:,.1f} s"),
            )
        ),
        Row("second turns: cached of attainable", ("second", "cached_share"), "{:.1%}"),
        Row("second turns: sessions that found half of it", ("second", "sessions_hit"), "{:.0f}"),
    ]


ROWS: dict[str, Callable[[Figures], list[Row]]] = {
    "single": _single,
    "concurrency": _concurrency,
    "growing": _growing,
    "shared": _bursts,
    "returning": _returning,
}


def at(figures: Any, path: tuple[str | int, ...]) -> float | None:
    for key in path:
        figures = figures[key]
    value: float | None = figures
    return value


def show(console: Console, result: Figures) -> None:
    for scenario, by_server in result["scenarios"].items():
        if not by_server:
            continue
        table = Table(
            "", *(escape(name) for name in by_server), title=f"{scenario}, median of {result['rounds']} rounds"
        )
        for row in rows(scenario, next(iter(by_server.values()))["median"]):
            table.add_row(row.title, *(_cell(at(found["median"], row.path), row.form) for found in by_server.values()))
        console.print(table)
    table = Table("server", "version", "model", "resident", "notes", title="what was measured")
    for name, facts in result["servers"].items():
        peak = f"{facts['peak_resident_mib']:,} MiB" if facts["peak_resident_mib"] else "?"
        cells = (name, facts["version"] or "?", facts["model"] or "?", peak, "; ".join(facts["notes"]))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _cell(value: float | None, form: str) -> str:
    return "not told" if value is None else form.format(value)


# -- the page ---------------------------------------------------------------------------------------------------------


def page(result: Figures) -> str:
    charts = [chart for name, found in result["scenarios"].items() if found for chart in CHARTS[name](found)]
    about = {key: value for key, value in result.items() if key != "scenarios"}
    medians = {s: {n: f["median"] for n, f in found.items()} for s, found in result["scenarios"].items()}
    title = f"Servers side by side: {result['model'] or 'the model they serve'}"
    return plot.page(title, charts, json.dumps({**about, "medians": medians}, indent=2))


def _medians(found: Figures) -> dict[str, Figures]:
    return {name: figures["median"] for name, figures in found.items()}


def _single_charts(found: Figures) -> list[str]:
    rates = {name: m["decode_tokens_per_s"] or 0.0 for name, m in _medians(found).items()}
    return [plot.bars("One stream, without its first token", rates, " tok/s")]


def _concurrency_charts(found: Figures) -> list[str]:
    servers = _medians(found)
    counts = [count for count in next(iter(servers.values())) if count != "cpu"]

    def chart(title: str, key: str, unit: str) -> str:
        series = {name: [m[count][key] or 0.0 for count in counts] for name, m in servers.items()}
        return plot.lines(title, [f"{count} at once" for count in counts], series, unit)

    return [
        chart("Output of all requests together", "tokens_per_s", " tok/s"),
        chart("Time to first token, median", "ttft_p50_ms", " ms"),
        chart("Time to first token, 95th percentile", "ttft_p95_ms", " ms"),
        chart("Between two tokens, 99th percentile", "gap_p99_ms", " ms"),
    ]


def _growing_charts(found: Figures) -> list[str]:
    servers = _medians(found)
    tokens = next(iter(servers.values()))["prompt_tokens"]
    series = {name: m["ttft_ms"] for name, m in servers.items()}
    return [plot.lines("Time to first token by the prompt's length", [f"{t:,.0f}" for t in tokens], series, " ms")]


def _two_part_charts(title: str, places: tuple[str, str]) -> Callable[[Figures], list[str]]:
    def charts(found: Figures) -> list[str]:
        servers = _medians(found)
        series = {name: [m["first"]["ttft_p50_ms"], m["second"]["ttft_p50_ms"]] for name, m in servers.items()}
        return [plot.lines(f"{title}: time to first token, median", places, series, " ms")]

    return charts


CHARTS: dict[str, Callable[[Figures], list[str]]] = {
    "single": _single_charts,
    "concurrency": _concurrency_charts,
    "growing": _growing_charts,
    "shared": _two_part_charts("Users behind one system prompt", ("first burst", "second burst")),
    "returning": _two_part_charts("Sessions that come back", ("first turns", "second turns")),
}
