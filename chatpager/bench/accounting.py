"""Who used the processors while something was measured, and how much memory a program took at most. From /proc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
IDLE = (3, 4)
"""Columns of /proc/stat's first line: idle, and waiting for a disk."""
COUNTED = 8
"""Its columns up to stolen time; those after are contained in the first."""
GROUP_FIELDS, TIME_FIELDS = (2, 3), (11, 12, 13, 14)
"""Fields of /proc/PID/stat behind the command's name: process group and session; user and system time, its own and that
of the children that it has buried."""
RESTING = 0.05
"""Share of all the processors' time up to which a server is at rest."""
DEAD = "ZX"
"""States."""


@dataclass(frozen=True)
class Reading:
    """Ticks since the machine started: of all processors, of those busy, of this process, of the server's group."""

    all: int
    busy: int
    client: int
    server: int


def read(group: int | None) -> Reading:
    ticks = [int(part) for part in (PROC / "stat").read_text().split("\n", 1)[0].split()[1 : 1 + COUNTED]]
    idle = sum(ticks[i] for i in IDLE)
    server = sum(_ticks(stat) for stat in members(group).values()) if group else 0
    return Reading(sum(ticks), sum(ticks) - idle, _ticks(_stat(PROC / "self") or []), server)


def shares(before: Reading, after: Reading) -> dict[str, float]:
    """Of all the processors' time between two readings: the client's, the server's, and everybody else's."""
    total = max(1, after.all - before.all)
    client, server = after.client - before.client, after.server - before.server
    others = after.busy - before.busy - client - server
    return {
        "client": round(client / total, 4),
        "server": round(server / total, 4),
        "others": round(max(0, others) / total, 4),
    }


def at_rest(before: Sequence[Reading], after: Sequence[Reading]) -> bool:
    """Whether none of several servers did anything worth a word between two readings of each."""
    return all(b.server - a.server <= RESTING * (b.all - a.all) for a, b in zip(before, after, strict=True))


def peak_bytes(group: int) -> int:
    """Resident memory of the group: the sum of its processes' own peaks, what they share counted for each."""
    peak = 0
    for pid in members(group):
        try:
            lines = (PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        peak += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    return peak


def members(group: int) -> dict[int, list[str]]:
    """Living processes of the group, or of the session that its leader opened, each with the fields of its stat."""
    found = {}
    for folder in PROC.iterdir():
        stat = _stat(folder) if folder.name.isdigit() else None
        if stat and stat[0] not in DEAD and str(group) in (stat[i] for i in GROUP_FIELDS):
            found[int(folder.name)] = stat
    return found


def _stat(folder: Path) -> list[str] | None:
    """The fields behind the command's name, which may hold anything."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _ticks(stat: list[str]) -> int:
    return sum(int(stat[i]) for i in TIME_FIELDS) if stat else 0
