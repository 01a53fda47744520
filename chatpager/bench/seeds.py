"""``chatpager bench seeds``: the figures that texts about PagedAttention give, beside ours and an honest baseline's.

The baseline reserves the maximum length for every request and batches statically (``static_batching``); it runs on the
same weights in the same KV memory, in the same run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from chatpager.bench import machine, models, seeds_report
from chatpager.bench.seeds_measure import QUICK, Measure, Sizes
from chatpager.bench.seeds_rows import ROWS
from chatpager.bench.workload import Told
from chatpager.errors import ConfigError


def run(*, shape: str, only: Sequence[str] | None, quick: bool, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures. ``only``: the rows to measure, by name. ``out``: a JSON file, beside which
    a page goes as HTML; both are written after each row, for all of them take half an hour.

    Raises:
        ConfigError: the shape or a row is not known.
    """
    chosen = list(ROWS) if only is None else list(only)
    for name in chosen:
        if name not in ROWS:
            raise ConfigError("only", f"must be some of {', '.join(ROWS)}", value=name)
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as temporary, _progress() as progress:
        folder = Path(temporary)
        parameters = models.make_model(shape, folder)
        measure = Measure(folder, sizes, progress)
        result: dict[str, Any] = {
            "what": "figures that texts about PagedAttention give (second-hand), ours, and those of static batching",
            "shape": shape,
            "parameters": parameters,
            "sizes": json.loads(json.dumps(asdict(sizes))),  # as a file has it
            "rows": [],
            "machine": machine.describe(),
        }
        for name in chosen:
            result["rows"].append(asdict(ROWS[name](measure)))
            _write(result, out)
    seeds_report.show(result)
    return result


def _write(result: dict[str, Any], out: str | None) -> None:
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
        Path(out).with_suffix(".html").write_text(seeds_report.page(result))


@contextmanager
def _progress() -> Iterator[Any]:
    """A function that begins a bar, and gives what moves it; a bar that is over makes room for the next."""
    with Progress() as progress:
        bar = progress.add_task("", total=None)

        def watch(what: str, tokens: int) -> Told:
            progress.reset(bar, description=what, total=tokens)
            return lambda count: progress.advance(bar, count)

        yield watch
