"""``chatpager bench kernels``: paged decode against the gather it replaces and what memory can be read at.

Every call takes pages that the ones before it did not, until 256 MB have been read, so that the caches are cold where
a step's are. The ceiling is what summing a large tensor reads with the same threads in the same process. On a CPU the
gather is the best that we know of torch's; on a GPU it is all pages at once, then torch's own attention, the other
kernels follow in a table of their own, and beside attention are the libraries of ``attention_peers``. These come when
all of ours is measured and saved: an error of theirs may cost the device, and compiling them all the time there is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.nn.functional import scaled_dot_product_attention

from chatpager.bench import attention_peers, ceilings, gpu_kernels, machine, plot, report
from chatpager.errors import ConfigError
from chatpager.kernels import Workspace, cpu, cpu_decode, paged_attention
from chatpager.kernels.arguments import AttentionCall, check

SHAPES = {
    "12/4/64": (12, 4, 64),
    "16/8/128": (16, 8, 128),
    "8/4/32": (8, 4, 32),
    "32/8/128": (32, 8, 128),
    "64/8/128": (64, 8, 128),
    "32/32/128": (32, 32, 128),
    "32/8/64": (32, 8, 64),
    "16/2/256": (16, 2, 256),
}
"""Query heads, KV heads, head dimension."""
DEFAULT_SHAPE = {"cpu": "12/4/64", "cuda": "32/8/128"}
ROWS = 1, 4, 16, 64, 256
CONTEXTS = {"cpu": (64, 320, 2048, 8192), "cuda": (128, 1024, 4096, 8192, 32_768)}
PAGE = 16
Way = Callable[[AttentionCall], None]
COLD_BYTES, MOST_BYTES = 256 << 20, {"cpu": 1 << 30, "cuda": 9 << 30}


def run(
    *,
    shape: str | None,
    dtype: str,
    device: str = "cpu",
    threads: int,
    most_tokens: int,
    seconds: float,
    out: str | None,
) -> dict[str, Any]:
    """Measure, print and return the figures; ``most_tokens`` and ``MOST_BYTES`` bound a call's keys and values.
    ``shape`` None: the device's in ``DEFAULT_SHAPE``.

    Raises:
        ConfigError: a shape, dtype, device or number cannot be measured.
    """
    ceilings.check_device(device)
    shape = shape or DEFAULT_SHAPE[device]
    if shape not in SHAPES:
        raise ConfigError("shape", f"one of {', '.join(SHAPES)}", value=shape)
    kinds = {name: kind for kind, name in cpu_decode.SERVED.items()}
    if dtype not in kinds:
        raise ConfigError("dtype", f"one of {', '.join(kinds)}", value=dtype)
    if not 1 <= threads <= 1024:
        raise ConfigError("threads", "must be between 1 and 1024", value=threads)
    if seconds <= 0:
        raise ConfigError("seconds", "must be above 0", value=seconds)
    if most_tokens < CONTEXTS[device][0]:
        raise ConfigError("most_tokens", f"must be at least {CONTEXTS[device][0]}", value=most_tokens)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        began = time.perf_counter()
        where = torch.device(device)
        dim = SHAPES[shape][2]
        paged_attention.prepare(kinds[dtype], where, dim)
        ready = time.perf_counter() - began
        if device == "cpu" and cpu_decode.kernel_for(kinds[dtype], dim, None) is None:
            raise ConfigError("dtype", "numba has no kernel for it here; the log says why", value=dtype)
        ceiling = _ceiling(where, seconds)
        result = {
            "what": "paged decode, medians; cold caches",
            "device": device,
            **ceilings.named(where),
            "shape": shape,
            "dtype": dtype,
            "threads": threads,
            "ready_s": round(ready, 3),
            "ceiling_gb_s": round(ceiling / 1e9, 2),
            "calls": [
                _measure(SHAPES[shape], kinds[dtype], where, rows, context, ceiling, seconds)
                for rows, context in _grid(device, SHAPES[shape], kinds[dtype], most_tokens)
            ],
            "others": _others(where, kinds[dtype], seconds),
            "machine": machine.describe(),
        }
        _finish(result, where, kinds[dtype], seconds, out)
    finally:
        torch.set_num_threads(before)
    return result


def _finish(result: dict[str, Any], device: torch.device, dtype: torch.dtype, seconds: float, out: str | None) -> None:
    """Save what there is, and on a GPU again behind each row of the peers; print it all in any case."""
    try:
        report.save(result, out, _charts(result))
        for _ in _peers(result, device, dtype, seconds) if device.type == "cuda" else ():
            report.save(result, out, _charts(result))
    finally:
        _print(result)


def _peers(result: dict[str, Any], device: torch.device, dtype: torch.dtype, seconds: float) -> Iterator[None]:
    """Add the peers' columns to the rows of ``result``, and yield behind each row; the last peer's, which compiles for
    minutes, behind all rows of the others."""
    every = attention_peers.peers()
    result["peers"] = {peer.name: peer.found for peer in every}
    for among in (every[:-1], every[-1:]):
        for row, calls in _again(result, device, dtype):
            row |= attention_peers.columns(among, calls(), seconds)
            yield


def _again(
    result: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[dict[str, Any], Callable[[], Sequence[AttentionCall]]]]:
    """The rows of attention, with what makes calls of their sizes: two rows' need not fit."""
    for row in result["calls"]:
        yield row, partial(_calls, SHAPES[result["shape"]], dtype, device, row["rows"], row["context"])
    for row, case in zip(result["others"], gpu_kernels.cases(device, dtype, gpu_kernels.Sizes()), strict=True):
        if case.call:
            yield row, partial(list, [case.call])


def _grid(device: str, shape: tuple[int, int, int], dtype: torch.dtype, most_tokens: int) -> list[tuple[int, int]]:
    """Rows, and tokens of each."""
    found = ((rows, context) for rows in ROWS for context in CONTEXTS[device])
    return [
        (rows, context)
        for rows, context in found
        if rows * context <= most_tokens and _bytes(shape, dtype, rows * context) <= MOST_BYTES[device]
    ]


def _bytes(shape: tuple[int, int, int], dtype: torch.dtype, tokens: int) -> int:
    return 2 * tokens * shape[1] * shape[2] * dtype.itemsize


def _ceiling(device: torch.device, seconds: float) -> float:
    """Bytes a second."""
    large = torch.ones(ceilings.READ_BYTES[device.type] // 4, device=device)
    return large.nbytes / _medians(device, (large.sum,), seconds)[0]


def _measure(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    rows: int,
    context: int,
    ceiling: float,
    seconds: float,
) -> dict[str, Any]:
    calls = _calls(shape, dtype, device, rows, context)
    read = _bytes(shape, dtype, rows * context)
    turn, (attend, gather) = count(), _ways(device)
    if device.type == "cuda":
        kernel, gathered = (
            gpu_kernels.seconds_each(device, [partial(way, call) for call in calls], seconds)
            for way in (attend, gather)
        )
    else:
        kernel, gathered = _medians(
            device,
            (lambda: attend(calls[next(turn) % len(calls)]), lambda: gather(calls[next(turn) % len(calls)])),
            seconds,
        )
    return {
        "rows": rows,
        "context": context,
        "kernel_us": round(1e6 * kernel, 1),
        "torch_us": round(1e6 * gathered, 1),
        "times": round(gathered / kernel, 2),
        "of_ceiling": round(read / kernel / ceiling, 3),
    }


def _others(device: torch.device, dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """The kernels that only a GPU has."""
    if device.type != "cuda":
        return []
    return gpu_kernels.measure(device, dtype, ceilings.measure(device, dtype), seconds)


def _ways(device: torch.device) -> tuple[Way, Way]:
    """The kernel, and what it replaces."""
    if device.type == "cpu":
        return cpu.attend, partial(cpu.attend, gather=True)
    from chatpager.kernels import cuda

    return cuda.attend, gather_all


def gather_all(call: AttentionCall) -> None:
    """Decode of rows whose contexts fill their pages: every page is copied, then torch attends."""
    tables = call.block_tables.long()
    keys, values = (c[tables].flatten(1, 2).transpose(1, 2) for c in (call.key_cache, call.value_cache))
    out = scaled_dot_product_attention(call.query.unsqueeze(2), keys, values, scale=call.scale, enable_gqa=True)
    call.out.copy_(out.squeeze(2))


def _calls(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, rows: int, context: int
) -> list[AttentionCall]:
    """Calls over pages of their own, in a random order; keys and values lie as in the engine's cache."""
    heads, kv_heads, dim = shape
    pages = rows * context // PAGE
    sets = max(1, COLD_BYTES // _bytes(shape, dtype, rows * context))
    tables = torch.randperm(sets * pages, dtype=torch.int32, device=device).view(sets, rows, -1)
    page = torch.randn(2, PAGE, kv_heads, dim).to(device, dtype)
    keys, values = (one.repeat(sets * pages, 1, 1, 1) for one in page)
    query, workspace = torch.randn(rows, heads, dim).to(device, dtype), Workspace()
    plans: dict[Any, Any] = {}  # lengths are those of one step
    lengths = torch.full((rows,), context, dtype=torch.int32, device=device)
    return [
        check(query, keys, values, table, lengths, PAGE, context, return_lse=False, workspace=workspace, plans=plans)
        for table in tables
    ]


def _medians(device: torch.device, calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Of at least five calls each, and of as many as fit ``seconds`` each; they take turns."""
    for call in calls:
        ceilings.timed(device, call)
    took: list[list[float]] = [[] for _ in calls]
    began = time.perf_counter()
    while len(took[0]) < 5 or time.perf_counter() - began < len(calls) * seconds:
        for call, times in zip(calls, took, strict=True):
            times.append(ceilings.timed(device, call))
    return [statistics.median(times) for times in took]


def _charts(result: dict[str, Any]) -> list[str]:
    charts = []
    for rows in dict.fromkeys(call["rows"] for call in result["calls"]):
        calls = [call for call in result["calls"] if call["rows"] == rows]
        series = {name: [call[f"{name}_us"] for call in calls] for name in ("torch", "kernel")}
        places = [f"{call['context']:,}" for call in calls]
        charts.append(plot.lines(f"Decode of {rows} rows, by tokens of context", places, series, " us"))
    return charts


def _print(result: dict[str, Any]) -> None:
    console = Console()
    told = (
        f"{result['shape']} {result['dtype']} on {result['device']}, {result['threads']} threads: "
        f"ready in {result['ready_s']} s, a sum reads {result['ceiling_gb_s']} GB/s"
    )
    console.print(Text(told))
    beside = [f"{name}_us" for name in result.get("peers", ())]
    names = "rows", "context", "kernel_us", "torch_us", "times", "of_ceiling", *beside
    console.print(_table(names, result["calls"]))
    if result["others"]:
        names = "kernel", "size", "us", "torch_us", "bound", "gb_s", "tflop_s", "of_floor", *beside
        console.print(_table(names, result["others"]))
    for name, found in result.get("peers", {}).items():
        console.print(Text(f"{name}: {found}"))


def _table(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(*(name.replace("_", " ") for name in names))
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    return table
