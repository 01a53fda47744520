"""What a figure was measured on: it means nothing without."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chatpager import __version__


def describe() -> dict[str, Any]:
    return {
        "cpu": _cpu("model name"),
        "cpu_flags": [flag for flag in TELLING_FLAGS if flag in _cpu("flags").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_gib(), 1),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "chatpager": __version__,
        "commit": _commit(),
        **{name: _version(name) for name in ("torch", "transformers", "numba", "triton")},
        "environment": threading(os.environ),
        "command": shlex.join(["chatpager", *sys.argv[1:]]),
    }


TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""What of a processor decides how fast its products are."""


def threading(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that say how many threads there are and how they wait for each other."""
    telling = ("OMP_", "GOMP_", "KMP_", "MKL_NUM")
    return {name: value for name, value in sorted(environ.items()) if name.startswith(telling)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of a checkout, with a + behind it where something was changed."""
    told = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")
    try:
        return subprocess.run(told, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith(name)), platform.processor())


def _gpus() -> list[str]:
    """As the driver names them: asking CUDA would take memory on them."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text().splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
