"""Decode on the CPU where numba can be had: the call's numbers go into a table, and ``cpu_jit`` reads pages in place.

Threads are those of torch's own OpenMP team, borrowed by the entry that compilers call for a parallel region: a second
team would spin against it for the cores. Where there is no such entry one thread computes.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from array import array
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from chatpager.kernels.arguments import AttentionCall

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

SERVED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Kernel(NamedTuple):
    """A compiled function of the address of its table of int64."""

    call: Callable[[int], None]
    address: int
    owner: object
    """Keeps the code alive."""


@lru_cache(maxsize=None)
def kernel(name: str) -> Kernel | None:
    """Compile, or load what was compiled before; seconds at the first time. None if it cannot be had, and says so."""
    try:
        from chatpager.kernels import cpu_jit  # numba is slow to import

        compiled = cpu_jit.compiled(name)
    except Exception as error:  # numba and LLVM raise whatever they like, and torch can do without
        log.warning("decode on the CPU falls back to torch, since numba gave no kernel for %s: %r", name, error)
        return None
    return Kernel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address), compiled.address, compiled)


def prepare(dtype: torch.dtype) -> bool:
    """Compile the kernels for ``dtype``; whether they will be used."""
    return dtype in SERVED and kernel(SERVED[dtype]) is not None


@lru_cache(maxsize=1)
def _team() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP library that torch itself runs on."""
    try:
        start: Any = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError) as error:
        log.warning("decode on the CPU takes one thread: torch's OpenMP has no way in (%s)", error)
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return start


def decode(call: AttentionCall, lse: Tensor) -> bool:
    """Fill ``call.out`` and ``lse`` [rows, heads] of the rows that see a token; False if that is not served, and
    nothing was written."""
    if call.query.dtype not in SERVED:
        return False
    found = kernel(SERVED[call.query.dtype])
    if found is None:
        return False
    threads = torch.get_num_threads()
    team = _team() if threads > 1 else None
    parts = threads if team else 1
    heads = call.kv_heads * call.group
    words = -(-(128 + heads * call.head_dim + 3 * heads * (call.head_dim + 2)) // 16) * 16
    scratch = call.workspace.take("decode", (parts * words,), torch.float32, call.query.device)
    table = _table(call, lse, parts, scratch)
    if team:
        team(found.address, table.buffer_info()[0], threads, 0)
    else:
        found.call(table.buffer_info()[0])
    return True


def _bits(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


def _table(call: AttentionCall, lse: Tensor, parts: int, scratch: Tensor) -> array[int]:
    """In the order of ``cpu_jit``; then two counters, which it finds by their addresses."""
    table = array("q", (
        call.query.data_ptr(), call.query.stride(0), call.query.stride(1),
        call.key_cache.data_ptr(), call.value_cache.data_ptr(), *call.key_cache.stride()[:3],
        call.block_tables.data_ptr(), *call.block_tables.stride(),
        call.context_lens.data_ptr(), call.context_lens.stride(0),
        call.out.data_ptr(), call.out.stride(0), call.out.stride(1),
        lse.data_ptr(), call.query.shape[0], call.kv_heads, call.group, call.head_dim, call.block_size,
        call.sliding_window or 0, parts, scratch.data_ptr(), 0, 0, _bits(call.scale), _bits(call.softcap or 0.0), 0, 0,
    ))  # fmt: skip
    first = table.buffer_info()[0]
    table[25], table[26] = first + 8 * (len(table) - 2), first + 8 * (len(table) - 1)
    return table
