"""Fenced blocks of Markdown pages."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*) ?([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """``kind`` and ``needs`` are the words behind the fence."""

    kind: str
    needs: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table behind a heading, without its head, and without ticks around a cell."""
    lines = page.read_text().partition(f"# {heading}\n")[2].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
