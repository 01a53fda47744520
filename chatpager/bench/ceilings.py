"""What the machine does at best, measured in this process: no step is faster than its bytes and operations allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from chatpager.errors import ConfigError

ROUNDS = 5
READ_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
"""More than the caches hold."""
MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Ceilings:
    read_bytes_per_s: float
    flops_per_s: float
    """Of a matrix product in the model's dtype or, on a CPU where that is faster, in float32."""

    def floor(self, bytes_read: float, operations: float) -> tuple[float, str]:
        """Seconds that a step takes at least, and which of the two bounds it: "memory" or "compute"."""
        return max((bytes_read / self.read_bytes_per_s, "memory"), (operations / self.flops_per_s, "compute"))


def check_device(name: str, *also: str) -> None:
    """Raises ConfigError: it is neither cpu nor cuda nor one of ``also``, or not here."""
    known = (*also, "cpu", "cuda")
    if name not in known:
        raise ConfigError("device", f"must be {' or '.join(known)}", value=name)
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "torch finds no GPU here; chatpager doctor says more", value=name)


def named(device: torch.device) -> dict[str, str]:
    """A GPU's name, for the figures that were measured on it."""
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


@torch.inference_mode()
def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of a few rounds each, on random numbers."""
    numbers = torch.rand(READ_BYTES[device.type] // 4, device=device)
    reading = best(device, numbers.sum)
    read = numbers.nbytes
    del numbers
    dtypes = {dtype, torch.float32} if device.type == "cpu" else {dtype}
    return Ceilings(read / reading, max(_multiplying(device, kind) for kind in dtypes))


def _multiplying(device: torch.device, dtype: torch.dtype) -> float:
    n = MATMUL_SIZE[device.type]
    left, right = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / best(device, lambda: left @ right)


def best(device: torch.device, work: Callable[[], object]) -> float:
    return min(timed(device, work) for _ in range(ROUNDS + 1))


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the work is done, on the device too."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
