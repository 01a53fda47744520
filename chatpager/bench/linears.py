"""``chatpager bench linears``: a CPU's product of few rows with a model's weights, by each of the ways there are.

Weights come in turn from so many copies that none is in a cache when it is met, as in a step. The fastest of the rounds
is told: other work on the machine only ever adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear

from chatpager.bench import ceilings, machine, report
from chatpager.engine.cpu_linears import Packed, packs
from chatpager.errors import ConfigError
from chatpager.kernels import cpu_linear

COLD_BYTES = 128 << 20
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Way = Callable[[Tensor, int], object]
"""Of the rows and the number of a weight."""


def run(
    *, outputs: int, inputs: int, dtype: str, rows: Sequence[int], threads: int, rounds: int, out: str | None
) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        ConfigError: a number or a dtype cannot be measured.
    """
    if dtype not in DTYPES:
        raise ConfigError("dtype", f"one of {', '.join(DTYPES)}", value=dtype)
    limits = (("outputs", outputs, 1 << 18), ("inputs", inputs, 1 << 16), ("threads", threads, 1024))
    for name, value, most in (*limits, ("rounds", rounds, 1000), *(("rows", count, 1 << 14) for count in rows)):
        if not 1 <= value <= most:
            raise ConfigError(name, f"must be between 1 and {most}", value=value)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            products = _measure(outputs, inputs, DTYPES[dtype], rows, rounds)
    finally:
        torch.set_num_threads(before)
    result = {
        "what": "one product, the fastest of the rounds; cold caches",
        "outputs": outputs,
        "inputs": inputs,
        "dtype": dtype,
        "threads": threads,
        "own_instruction": cpu_linear.has_dots(),
        "rounds": rounds,
        "products": products,
        "machine": machine.describe(),
    }
    _print(result)
    report.save(result, out, [])
    return result


def _measure(outputs: int, inputs: int, dtype: torch.dtype, rows: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    copies = max(2, COLD_BYTES // (outputs * inputs * dtype.itemsize))
    weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(copies)]
    packed = [Packed(weight, None) for weight in weights] if packs(dtype) else []
    told = []
    for count in rows:
        x = torch.randn(count, inputs).to(dtype)
        best = {name: 1e3 * _best(way, x, copies, rounds) for name, way in _ways(weights, packed, count).items()}
        told.append({"rows": count, **{f"{name}_ms": round(took, 4) for name, took in best.items()}})
    return told


def _ways(weights: list[Tensor], packed: list[Packed], rows: int) -> dict[str, Way]:
    outputs, dtype = len(weights[0]), weights[0].dtype
    out = torch.empty(rows, outputs, dtype=dtype)
    ways: dict[str, Way] = {"torch": lambda x, i: linear(x, weights[i])}
    if packed:
        ways["packed"] = lambda x, i: packed[i](x)
    if cpu_linear.kernels(dtype, dtype):
        ways["kernel"] = lambda x, i: cpu_linear.linear(x, cpu_linear.Weights(weights[i]), out)
    return ways


def _best(way: Way, x: Tensor, copies: int, rounds: int) -> float:
    """Seconds of one product, over a round of all copies."""
    cpu = torch.device("cpu")
    once = [partial(way, x, i) for i in range(copies)]
    return min(sum(ceilings.timed(cpu, call) for call in once) / copies for _ in range(1 + rounds))


def _print(result: dict[str, Any]) -> None:
    names = list(dict.fromkeys(name for product in result["products"] for name in product))
    table = Table(*(name.replace("_", " ") for name in names), title=f"{result['outputs']} x {result['inputs']}")
    for product in result["products"]:
        table.add_row(*(f"{product[name]:,}" for name in names))
    Console().print(table)
