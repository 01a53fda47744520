"""``python -m chatpager.bench.tilings``: the fastest tiling of decode and extend for each shape, on the GPU that is
here, as entries for the table of configurations (``chatpager/kernels/configurations.toml``).

What the kernels do today is always among the candidates, and stays unless another is faster by more than a measurement
varies. One that does not compile for the device, since it needs more shared memory, is passed over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from itertools import product

import torch

from chatpager.bench.gpu_kernels import attention_call, seconds_each
from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.configurations import Shape, Tiling
from chatpager.kernels.heuristics import power_of_2

HEADS = ((32, 8, 128), (16, 8, 128), (64, 8, 128), (32, 32, 128), (32, 8, 64), (16, 2, 256))
"""Query heads, KV heads, numbers of a head."""
DECODE = (4096,) * 32
EXTEND = 4096, 2048
"""Tokens of the context, and how many of them are new."""
MARGIN = 0.98


def candidates(kernel: str, group: int, now: Tiling) -> Iterator[Tiling]:
    """What is in use first."""
    yield now
    rows = (max(16, power_of_2(group)),) if kernel == "decode" else (64, 128)
    for shape in product(rows, (32, 64, 128), (4, 8), (2, 3, 5)):
        if (tiling := Tiling(*shape)) != now and tiling.rows >= group:
            yield tiling


def fastest(call: AttentionCall, tilings: Iterator[Tiling], seconds: float) -> tuple[Tiling, float, float]:
    """The best tiling, its time and that of the first, in seconds."""
    from triton.runtime.errors import OutOfResources

    from chatpager.kernels import cuda

    found: list[tuple[float, Tiling]] = []
    for tiling in tilings:
        work = partial(cuda.attend, call._replace(plans={}), None, tiling)
        try:
            took = seconds_each(call.query.device, [work], seconds)
        except OutOfResources:
            continue
        found.append((took, tiling))
    first, best = found[0], min(found, key=lambda one: one[0])
    if best[0] > MARGIN * first[0]:
        best = first
    return best[1], best[0], first[0]


def entry(shape: Shape, tiling: Tiling, source: str) -> str:
    lines = [f'source = "{source}"', f'kernel = "{shape.kernel}"', f'target = "{shape.target}"']
    lines += [f"head_dim = {shape.head_dim}", f"groups = [{shape.group}]", f"itemsize = {shape.itemsize}"]
    lines += [f"{name} = true" for name in ("eight_bits", "few") if getattr(shape, name)]
    lines += [f"{name} = {getattr(tiling, name)}" for name in Tiling.__dataclass_fields__]
    return "\n".join(["[[tiling]]", *lines])


def sweep(
    device: torch.device, dtype: torch.dtype, heads: Sequence[tuple[int, int, int]], seconds: float, *, named: str
) -> Iterator[str]:
    """Entries of the table, one for each kernel and shape."""
    from chatpager.kernels import cuda

    for shape_of_heads in heads:
        query_heads, kv_heads, dim = shape_of_heads
        for kernel in ("decode", "extend"):
            if kernel == "decode":
                call = attention_call(device, dtype, shape_of_heads, DECODE)
            else:
                call = attention_call(device, dtype, shape_of_heads, EXTEND[:1], EXTEND[1:])
            shape = Shape(kernel, cuda.target_of(device), dim, query_heads // kv_heads, dtype.itemsize)
            now = cuda.tiling_of(call)
            best, took, before = fastest(call, candidates(kernel, shape.group, now), seconds)
            source = f"measured on {named}, {date.today()}: {1e6 * took:.1f} us, {1e6 * before:.1f} before"
            yield entry(shape, best, source)


def as_text(heads: tuple[int, int, int]) -> str:
    return "/".join(map(str, heads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each candidate")
    every = [as_text(heads) for heads in HEADS]
    parser.add_argument("--heads", nargs="+", choices=every, default=every, help="all may take a quarter of an hour")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; chatpager doctor says more")
    device, began = torch.device("cuda"), time.perf_counter()
    name = torch.cuda.get_device_name(device)
    chosen = [heads for heads in HEADS if as_text(heads) in options.heads]
    for told in sweep(device, getattr(torch, options.dtype), chosen, options.seconds, named=name):
        print(told, end="\n\n", flush=True)
    print(f"# {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
