"""What the server's process and its store take, as of one moment."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PROC = Path("/proc/self")
NO_TRANSACTIONS: Mapping[str, int] = MappingProxyType({"read": 0, "write": 0})


class OwnFigures(NamedTuple):
    """Memory and files are 0 where there is no /proc, or no file left to look at it."""

    transactions: Mapping[str, int] = NO_TRANSACTIONS
    tasks: int = 0
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    open_files: int = 0
    python_blocks: int = 0

    def collect(self) -> Iterator[Metric]:
        text = "Transactions of the database, begun or refused"
        transactions = CounterMetricFamily("chatpager_store_transactions", text, labels=["kind"])
        for kind, count in self.transactions.items():
            transactions.add_metric([kind], count)
        yield transactions
        cpu = "Processor time of the process"
        yield CounterMetricFamily("chatpager_process_cpu_seconds", cpu, value=self.cpu_seconds)
        for name, about, value in (
            ("tasks", "Tasks of the event loop", self.tasks),
            ("process_resident_memory_bytes", "Memory that the process has in use", self.resident_bytes),
            ("process_open_fds", "Files and sockets that the process has open", self.open_files),
            ("python_allocated_blocks", "Blocks of memory that Python's objects have", self.python_blocks),
        ):
            yield GaugeMetricFamily(f"chatpager_{name}", about, value=value)


async def own_figures(transactions: Mapping[str, int]) -> OwnFigures:
    """As of now. Ten thousand open files are not listed on the event loop."""
    pages, files = await asyncio.to_thread(_pages_and_files)
    return OwnFigures(
        transactions,
        len(asyncio.all_tasks()),
        time.process_time(),
        pages * os.sysconf("SC_PAGE_SIZE"),
        files,
        sys.getallocatedblocks(),
    )


def _pages_and_files() -> tuple[int, int]:
    try:
        return int((PROC / "statm").read_text().split()[1]), len(os.listdir(PROC / "fd"))
    except OSError:
        return 0, 0
