"""``chatpager bench placement``: a cluster that is simulated, by the code that would place its sessions.

Nothing of it was measured on several machines: what a replica computes in a second is an argument, and its default is
what one machine was measured at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.bench import machine, plot, report
from chatpager.bench.clusters import ASSUMPTIONS, Load, Traffic, figures, routers, simulate
from chatpager.errors import ConfigError
from chatpager.sessions.placement import Policy

RATES_FROM = "engine-160m-avx512-2026-11-30.json"
"""In ``bench/results``: 151 million weights on two cores."""
PREFILL = 972.7
"""Tokens/s of prompts, four of 128 tokens in a step."""
DECODE = 694.5
"""Tokens/s of sixteen sequences that decode."""
MOST_REPLICAS = 1000
MOST_SESSIONS = 1_000_000


def run(load: Load, *, replicas: Sequence[int], policy: Policy, trial: bool, out: str | None) -> dict[str, Any]:
    """Simulate, print and return the figures, for each number of replicas; those of ``load`` are ignored.

    Raises:
        ConfigError: a number that cannot be simulated.
    """
    if trial:
        replicas, load = (2, 4), replace(load, sessions_each=100)
    _check(load, replicas)
    console = Console()
    rows = []
    for count in replicas:
        cluster = replace(load, replicas=count)
        with console.status(f"{count:,} replicas: drawing {cluster.sessions:,} sessions") as status:
            traffic = Traffic(cluster)
            for name, router in routers(cluster, policy):
                status.update(f"{count:,} replicas, {traffic.count:,} turns: {name}")
                rows.append({"turns": traffic.count, **figures(name, cluster, simulate(cluster, traffic, router))})
    result = {
        "what": "sessions on several replicas, simulated: who finds what, and how long turns wait",
        "placements": rows,
        "load": {name: value for name, value in asdict(load).items() if name != "replicas"},
        "policy": {"factor": policy.factor, "lease_s": policy.lease, "allowance_s": policy.allowance},
        "rates": f"prefill {PREFILL} and decode {DECODE} tokens/s, the defaults, are of {RATES_FROM}",
        "assumptions": list(ASSUMPTIONS),
        "machine": machine.describe(),
    }
    _print(console, result)
    report.save(result, out, _charts(rows))
    return result


def _check(load: Load, replicas: Sequence[int]) -> None:
    for count in replicas:
        if not 1 <= count <= MOST_REPLICAS:
            raise ConfigError("replicas", f"each number must be between 1 and {MOST_REPLICAS:,}", value=count)
    whole = ("sessions_each", "prefix", "message", "answer", "groups", "room", "front_ends")
    for name in whole:
        if getattr(load, name) < 1:
            raise ConfigError(name, "must be at least 1", value=getattr(load, name))
    for name in ("load", "pause", "prefill", "decode", "refresh"):
        if not getattr(load, name) > 0:
            raise ConfigError(name, "must be more than 0", value=getattr(load, name))
    if load.seed < 0:
        raise ConfigError("seed", "must be at least 0", value=load.seed)
    if not load.turns >= 1:
        raise ConfigError("turns", "must be at least 1", value=load.turns)
    if not 0 <= load.grouped <= 1:
        raise ConfigError("grouped", "is a share, between 0 and 1", value=load.grouped)
    if (most := load.sessions_each * max(replicas)) > MOST_SESSIONS:
        raise ConfigError("sessions_each", f"makes more than {MOST_SESSIONS:,} sessions in all", value=most)


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(
        *(
            "replicas",
            "placed by",
            "found of attainable",
            "busiest of mean",
            "busy",
            "wait p50, p99",
            "first token p99",
        ),
        title="simulated",
    )
    for row in result["placements"]:
        table.add_row(
            f"{row['replicas']:,}",
            row["placed_by"],
            f"{row['hit_of_attainable']:.1%}",
            f"{row['busiest_of_mean']:.2f}",
            f"{row['busy']:.0%}",
            f"{row['wait_p50_s']:.2f}, {row['wait_p99_s']:.2f} s",
            f"{row['first_token_p99_s']:.2f} s",
        )
    console.print(table)
    console.print(
        Text("Busy beyond 100 %: more work came than the cluster can do, and waits grow for as long as it comes.")
    )
    console.print(Text(f"Rates: {result['rates']}."))
    for one in result["assumptions"]:
        console.print(Text(f"Assumed: {one}."))


def _charts(rows: Sequence[dict[str, Any]]) -> list[str]:
    places = list(dict.fromkeys(f"{row['replicas']:,} replicas" for row in rows))
    names = list(dict.fromkeys(row["placed_by"] for row in rows))

    def series(figure: str, factor: float = 1.0) -> dict[str, list[float]]:
        return {name: [row[figure] * factor for row in rows if row["placed_by"] == name] for name in names}

    return [
        plot.lines("Cached tokens of those attainable", places, series("hit_of_attainable", 100.0), " %"),
        plot.lines("Work of the busiest replica, of the mean", places, series("busiest_of_mean"), ""),
        plot.lines("Wait of a turn, 99th percentile", places, series("wait_p99_s"), " s"),
    ]
