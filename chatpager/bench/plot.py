"""Lines over a few places and bars, as SVG in a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import cycle

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 280, 64, 40, 16
COLOURS = ("#777777", "#c2185b", "#ef8f00", "#1976d2", "#2e7d32", "#6a1b9a")


def lines(title: str, places: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> str:
    """One chart: each series has a value for each place; the scale begins at nothing. The unit stands in the title,
    where there is room for it."""
    top = max(max(values) for values in series.values()) or 1.0
    step = (WIDTH - LEFT - 16) / max(1, len(places) - 1)

    def point(i: int, value: float) -> tuple[float, float]:
        return LEFT + i * step, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">']
    for share in (0.0, 0.5, 1.0):
        _, y = point(0, share * top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_figure(share * top)}</text>')
    for i, place in enumerate(places):
        x, _ = point(i, 0)
        anchor = "end" if 0 < i == len(places) - 1 else "middle"  # the last place is at the edge
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 16}" text-anchor="{anchor}">{html.escape(place)}</text>')
    for colour, values in zip(cycle(COLOURS), series.values(), strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (point(i, v) for i, v in enumerate(values)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{colour}"/>' for p in path.split()
        ]
    parts.append("</svg>")
    legend = "".join(
        f'<li><span style="color:{colour}">&#9632;</span> {html.escape(name)}</li>'
        for colour, name in zip(cycle(COLOURS), series, strict=False)
    )
    caption = html.escape(f"{title}, {unit.strip()}")
    return f"<figure><figcaption>{caption}</figcaption>{''.join(parts)}<ul>{legend}</ul></figure>"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One chart: a bar for each name, from nothing to its value."""
    top = max(values.values()) or 1.0
    high, label = 28, 150
    width = WIDTH - label - 110
    parts = [f'<svg viewBox="0 0 {WIDTH} {high * len(values)}" width="{WIDTH}" role="img">']
    for i, (colour, (name, value)) in enumerate(zip(cycle(COLOURS), values.items(), strict=False)):
        y, long = i * high, width * value / top
        parts.append(f'<text x="{label - 8}" y="{y + 19}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="{label}" y="{y + 5}" width="{long:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{label + long + 6:.1f}" y="{y + 19}">{value:.4g}{unit}</text>')
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{''.join(parts)}</svg></figure>"


STYLE = (
    "body{font:14px system-ui;margin:2em;max-width:60em}svg text{font:12px system-ui;fill:#555}ul{list-style:none}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:4px;text-align:left}caption{text-align:left}"
)


def page(title: str, charts: Sequence[str], note: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(charts)}<pre>{html.escape(note)}</pre></html>\n"
    )
