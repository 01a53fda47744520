"""Compiled code for the CPU, where numba can be had, and the threads that it runs on.

Threads are those of torch's own OpenMP team, borrowed by the entry that compilers call for a parallel region: a second
team would spin against it for the cores. Where there is no such entry one thread computes.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chatpager.kernels import kept_code

log = logging.getLogger(__name__)

SHARED_BYTES = 256 << 10
"""What a call reads from which on it is worth more than one thread."""


class Kernel(NamedTuple):
    """Compiled code that takes the address of a table of int64."""

    call: Callable[[int], None]
    address: int
    owner: object
    """Keeps the code where it is."""

    def run(self, table: array[int], threads: int = 1) -> None:
        """Have ``threads`` threads, as ``parts_for`` allows them, run the code on the same table."""
        address = table.buffer_info()[0]
        team = _team() if threads > 1 else None
        if team:
            team(self.address, address, threads, 0)
        else:
            self.call(address)


@cache
def kernel_of(room: str, name: str) -> Kernel | None:
    """Compile, or load what was compiled before; None where that fails, and a warning says so once."""
    try:
        owner = _kept(room, name) or _compiled(room, name)
    except Exception as error:  # of numba, of LLVM or of a broken installation; torch can do without any of them
        log.warning("the CPU computes %s with torch alone, which is slower: numba failed with %r", name, error)
        return None
    return Kernel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(owner.address), owner.address, owner)


def _kept(room: str, name: str) -> kept_code.Linked | None:
    try:
        code = kept_code.find(room, name)
        return kept_code.link(code) if code else None
    except Exception as error:  # LLVM may be older than what it is asked for; numba knows
        log.debug("the kept %s of %s was not linked: %r", name, room, error)
        return None


def _compiled(room: str, name: str) -> Any:
    made = importlib.import_module(f"chatpager.kernels.{room}").compiled(name)  # numba is slow to import
    with suppress(AttributeError, RuntimeError):  # numba tells what it made to those who know it well
        kept_code.keep(room, name, kept_code.Code(made.native_name, made._library._get_compiled_object()))
    return made


@cache
def bits(number: float) -> int:
    """How a table of int64 holds a float32."""
    return int.from_bytes(struct.pack("<f", number), "little")


def parts_for(read: int) -> int:
    """Threads for a call that reads so many bytes."""
    threads = torch.get_num_threads()
    return threads if threads > 1 and read >= SHARED_BYTES and _team() else 1


@cache
def _team() -> Any:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP library that torch itself runs on."""
    start = team_entry("GOMP_parallel")
    if start is not None:
        start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return start


@cache
def team_entry(name: str) -> Any:
    """A function of that OpenMP library which returns nothing; None, and a warning, where it has none."""
    try:
        entry = getattr(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")), name)
    except (OSError, AttributeError) as error:
        log.warning("kernels on the CPU take one thread: torch's OpenMP library has no entry for more (%s)", error)
        return None
    entry.restype = None
    return entry
