"""Decode on the CPU where numba can be had: the call's numbers go into a table, and ``cpu_jit`` reads pages in place.

Threads are those of torch's own OpenMP team, borrowed by the entry that compilers call for a parallel region: a second
team would spin against it for the cores. Where there is no such entry one thread computes.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatpager.kernels.arguments import AttentionCall

log = logging.getLogger(__name__)

SERVED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""numba reads no float16, and nobody measures float64."""

SHARED_BYTES = 256 << 10
"""Keys and values from which a call is worth more than one thread."""


class Kernel(NamedTuple):
    """Compiled code that takes the address of a table of int64."""

    call: Callable[[int], None]
    address: int
    owner: object
    """Keeps the code where it is."""


@cache
def kernel(name: str) -> Kernel | None:
    """Compile, or load what was compiled before; None where that fails, and a warning says so once."""
    try:
        from chatpager.kernels import cpu_jit  # numba is slow to import

        owner = cpu_jit.compiled(name)  # type: ignore[no-untyped-call]
    except Exception as error:  # of numba, of LLVM or of a broken installation; torch can do without any of them
        log.warning("the CPU computes %s with torch alone, which is slower: numba failed with %r", name, error)
        return None
    return Kernel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(owner.address), owner.address, owner)


def prepare(dtype: torch.dtype) -> None:
    """Have the kernels that serve ``dtype`` compiled."""
    if dtype in SERVED:
        kernel(SERVED[dtype])
        kernel("store")


@cache
def _team() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP library that torch itself runs on."""
    try:
        start: Any = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError) as error:
        log.warning("decode on the CPU takes one thread: torch's OpenMP library has no entry for it (%s)", error)
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    entry: Callable[[int, int, int, int], None] = start
    return entry


def decode(call: AttentionCall, tokens: int, lse: Tensor) -> bool:
    """Fill ``call.out`` and ``lse`` [rows, kv_heads, group] of the rows that see any of ``tokens`` tokens in all.

    False if the dtype is not served here; nothing was written then.

    Raises:
        IndexError: a table's entry within a context is no block; what was written is of no use.
    """
    found = kernel(SERVED[call.query.dtype]) if call.query.dtype in SERVED else None
    if found is None:
        return False
    read = 2 * tokens * call.kv_heads * call.head_dim * call.query.element_size()
    if not call.key_cache.shape[0]:
        raise IndexError("context_lens names tokens, but the caches have no blocks")
    team, threads = None, torch.get_num_threads()
    if threads > 1 and read >= SHARED_BYTES:
        team = _team()
    parts = threads if team else 1
    scratch = call.workspace.take("decode", (parts, part_words(call)), torch.float32, call.query.device)
    table = _table(call, lse, parts, scratch)
    address = table.buffer_info()[0]
    if team:
        team(found.address, address, threads, 0)
    else:
        found.call(address)
    if wrong := table[-3]:
        raise IndexError(f"block_tables names block {wrong}, but the caches have {call.key_cache.shape[0]}")
    return True


def part_words(call: AttentionCall) -> int:
    """Words of 4 bytes that a part of the work needs: whole cache lines, so that no two parts share one.

    They are offsets and scores of a tile (128 words), the queries of a row, and three states of a row (maxima, sums,
    outputs): of one that is whole, of one that began in an earlier part and of one that goes on in a later one.
    """
    heads = call.kv_heads * call.group
    words = 128 + heads * call.head_dim + 3 * heads * (call.head_dim + 2)
    return -(-words // 16) * 16


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<f", number), "little")


def _table(call: AttentionCall, lse: Tensor, parts: int, scratch: Tensor) -> array[int]:
    """In the order of the names in ``cpu_tiles``; the block that is none and the two counters stand last."""
    return array("q", (
        call.query.data_ptr(), call.query.stride(0), call.query.stride(1),
        call.key_cache.data_ptr(), call.value_cache.data_ptr(), *call.key_cache.stride()[:3],
        call.block_tables.data_ptr(), *call.block_tables.stride(),
        call.context_lens.data_ptr(), call.context_lens.stride(0),
        call.out.data_ptr(), call.out.stride(0), call.out.stride(1), lse.data_ptr(),
        call.query.shape[0], call.kv_heads, call.group, call.head_dim, call.block_size, call.sliding_window or 0,
        parts, scratch.data_ptr(), scratch.stride(0), _bits(call.scale), _bits(call.softcap or 0.0),
        call.key_cache.shape[0], 0, 0, 0,
    ))  # fmt: skip


def store(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> bool:
    """Put tokens into their slots as ``store_kv`` says; False if that is not served, and nothing was written.

    Raises:
        IndexError: a slot is past the caches' end; nothing was written.
    """
    if key.dtype not in SERVED or key.stride(2) != 1 or value.stride(2) != 1:
        return False
    found = kernel("store")
    if found is None:
        return False
    size = key.element_size()
    room = key_cache.shape[0] * key_cache.shape[1]
    table = array("q", (
        key.data_ptr(), key.stride(0) * size, key.stride(1) * size,
        value.data_ptr(), value.stride(0) * size, value.stride(1) * size,
        key_cache.data_ptr(), value_cache.data_ptr(), *(size * stride for stride in key_cache.stride()[:3]),
        slot_mapping.data_ptr(), slot_mapping.stride(0),
        key.shape[0], key.shape[1], key.shape[2] * size, key_cache.shape[1], room, -1,
    ))  # fmt: skip
    found.call(table.buffer_info()[0])
    if table[-1] >= 0:
        raise IndexError(f"slot_mapping names slot {table[-1]}, but the caches have {room}")
    return True
