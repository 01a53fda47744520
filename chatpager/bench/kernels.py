"""``chatpager bench kernels``: paged decode on this CPU against the gather it replaces and what memory can be read at.

Every call takes pages that the ones before it did not, until 256 MB have been read, so that the caches are cold where
a step's are. The ceiling is what summing a large tensor reads with the same threads in the same process.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatpager.bench import machine
from chatpager.errors import ConfigError
from chatpager.kernels import Workspace, cpu, cpu_decode, paged_attention
from chatpager.kernels.arguments import AttentionCall, check

SHAPES = {"12/4/64": (12, 4, 64), "16/8/128": (16, 8, 128), "8/4/32": (8, 4, 32)}
"""Query heads, KV heads, head dimension."""
ROWS, CONTEXTS = (1, 4, 16, 64, 256), (64, 320, 2048, 8192)
PAGE = 16
COLD_BYTES, MOST_BYTES = 256 << 20, 1 << 30


def run(*, shape: str, dtype: str, threads: int, most_tokens: int, seconds: float, out: str | None) -> dict[str, Any]:
    """Measure, print and return the figures; ``most_tokens`` and what 1 GiB holds bound a call's keys and values.

    Raises:
        ConfigError: a shape, dtype or number cannot be measured.
    """
    if shape not in SHAPES:
        raise ConfigError("shape", f"one of {', '.join(SHAPES)}", value=shape)
    kinds = {name: kind for kind, name in cpu_decode.SERVED.items()}
    if dtype not in kinds:
        raise ConfigError("dtype", f"one of {', '.join(kinds)}", value=dtype)
    if not 1 <= threads <= 1024:
        raise ConfigError("threads", "must be between 1 and 1024", value=threads)
    if seconds <= 0:
        raise ConfigError("seconds", "must be above 0", value=seconds)
    if most_tokens < CONTEXTS[0]:
        raise ConfigError("most_tokens", f"must be at least {CONTEXTS[0]}", value=most_tokens)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        began = time.perf_counter()
        paged_attention.prepare(kinds[dtype], torch.device("cpu"))
        ready = time.perf_counter() - began
        if cpu_decode.kernel(dtype) is None:
            raise ConfigError("dtype", "numba has no kernel for it here; the log says why", value=dtype)
        ceiling = _ceiling(seconds)
        calls = [
            _measure(SHAPES[shape], kinds[dtype], rows, context, ceiling, seconds)
            for rows in ROWS
            for context in CONTEXTS
            if rows * context <= most_tokens and _bytes(SHAPES[shape], kinds[dtype], rows * context) <= MOST_BYTES
        ]
    finally:
        torch.set_num_threads(before)
    result = {
        "what": "paged decode on the CPU, medians; cold caches",
        "shape": shape,
        "dtype": dtype,
        "threads": threads,
        "ready_s": round(ready, 3),
        "ceiling_gb_s": round(ceiling / 1e9, 2),
        "calls": calls,
        "machine": machine.describe(),
    }
    _print(result)
    if out:
        Path(out).write_text(json.dumps(result, indent=2) + "\n")
    return result


def _bytes(shape: tuple[int, int, int], dtype: torch.dtype, tokens: int) -> int:
    return 2 * tokens * shape[1] * shape[2] * dtype.itemsize


def _ceiling(seconds: float) -> float:
    """Bytes a second."""
    large = torch.ones(COLD_BYTES // 4)
    return COLD_BYTES / _median(large.sum, seconds)


def _measure(
    shape: tuple[int, int, int], dtype: torch.dtype, rows: int, context: int, ceiling: float, seconds: float
) -> dict[str, Any]:
    calls = _calls(shape, dtype, rows, context)
    read = _bytes(shape, dtype, rows * context)
    turn = count()
    kernel = _median(lambda: cpu.attend(calls[next(turn) % len(calls)]), seconds)
    gathered = _median(lambda: cpu.attend(calls[next(turn) % len(calls)], gather=True), seconds)
    return {
        "rows": rows,
        "context": context,
        "kernel_us": round(1e6 * kernel, 1),
        "torch_us": round(1e6 * gathered, 1),
        "times": round(gathered / kernel, 2),
        "of_ceiling": round(read / kernel / ceiling, 3),
    }


def _calls(shape: tuple[int, int, int], dtype: torch.dtype, rows: int, context: int) -> list[AttentionCall]:
    """Calls over pages of their own, in a random order."""
    heads, kv_heads, dim = shape
    pages = rows * context // PAGE
    sets = max(1, COLD_BYTES // _bytes(shape, dtype, rows * context))
    tables = torch.randperm(sets * pages, dtype=torch.int32).view(sets, rows, -1)
    caches = torch.randn(2, PAGE, kv_heads, dim).to(dtype).repeat(sets * pages, 1, 1, 1, 1)
    query, lengths, workspace = torch.randn(rows, heads, dim).to(dtype), torch.full((rows,), context), Workspace()
    return [
        check(
            query, caches[:, 0], caches[:, 1], table, lengths.int(), PAGE, context, return_lse=False,
            workspace=workspace,
        )
        for table in tables
    ]  # fmt: skip


def _median(call: Callable[[], object], seconds: float) -> float:
    """Of at least five calls, and of as many as fit ``seconds``."""
    call()
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def _print(result: dict[str, Any]) -> None:
    console = Console()
    told = (
        f"{result['shape']} {result['dtype']}, {result['threads']} threads: ready in {result['ready_s']} s, "
        f"a sum reads {result['ceiling_gb_s']} GB/s"
    )
    console.print(Text(told))
    table = Table("rows", "context", "kernel us", "torch us", "times", "of ceiling")
    for call in result["calls"]:
        names = ("rows", "context", "kernel_us", "torch_us", "times", "of_ceiling")
        table.add_row(*(str(call[name]) for name in names))
    console.print(table)
