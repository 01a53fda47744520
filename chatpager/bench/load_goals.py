"""The figures that a load is to keep, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rich.table import Table

from chatpager.server.keyring import CACHE_SECONDS


class Goal(NamedTuple):
    """``key`` of the figures of loads called ``load``, of at least ``least`` sockets, is to be at most ``most``."""

    id: str
    load: str
    key: str
    most: float
    about: str
    least: int = 0
    below: int = 1 << 30


GOALS = (
    Goal("G02", "idle", "kib_per_socket", 24, "KiB of an idle socket"),
    Goal("F04", "idle", "cpu_share", 0.10, "of a core for idle sockets"),
    Goal("G05", "streams", "cpu_share", 0.50, "of a core for 1,000 streams x 20 tokens/s", least=1000),
    Goal("G06", "streams", "step_to_socket_p99_s", 0.005, "s from step to socket, p99, 100 streams", below=1000),
    Goal("G06", "streams", "step_to_socket_p99_s", 0.020, "s from step to socket, p99, 1,000 streams", least=1000),
    Goal("G22", "streams", "loop_lag_p999_s", 0.020, "s that the event loop is late, p99.9"),
    Goal("G04", "resumes", "seconds", 15, "s for the storm of resumes"),
    Goal("G04", "resumes", "sql_reads", 0, "reads of the database in it, but for the keyring's looks"),
    Goal("G13", "stalled", "gone_s", 10, "s until readers that do not read are gone"),
    Goal("G13", "stalled", "mib_each", 1, "MiB for each of them"),
    Goal("G21", "soak", "memory_mib_per_h", 1, "MiB of memory an hour"),
    Goal("G21", "soak", "active_blocks_at_the_end", 0, "KV blocks that nobody gave back"),
)


def beyond_the_keyring(reads: float, seconds: float) -> int:
    """Of the database's reads in so many seconds those that are not the keyring's: whoever comes, it looks once every
    ``CACHE_SECONDS`` whether there are keys, and that is the clock's doing, not theirs."""
    return max(0, int(reads) - 1 - int(seconds // CACHE_SECONDS))


def judged(loads: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each goal that one of the loads, each with its name, says something about."""
    rows = []
    for name, figures in loads:
        size = next(iter(figures.values()))
        for goal in GOALS:
            if goal.load == name and goal.least <= size < goal.below:
                value = figures[goal.key]
                row = {"goal": goal.id, "what": goal.about, "sockets": size, "value": value, "most": goal.most}
                rows.append({**row, "kept": bool(value <= goal.most)})
    return rows


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    shown = Table("", "sockets", "measured", "goal", "", "what", box=None)
    for row in rows:
        kept = "kept" if row["kept"] else "MISSED"
        value = "-" if row["value"] is None else f"{row['value']:g}"
        shown.add_row(row["goal"], f"{row['sockets']:,}", value, f"<= {row['most']:g}", kept, row["what"])
    return shown
