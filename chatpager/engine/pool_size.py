"""How many KV blocks a pool has, and how long a sequence may be that they hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chatpager.config import EngineConfig
from chatpager.errors import ConfigError

MEMINFO = Path("/proc/meminfo")
CPU_KV_BYTES = 4 << 30
"""KV cache on a CPU when ``num_kv_blocks`` is not given: at most this (what vLLM takes there too)."""


class PoolSize(NamedTuple):
    """``num_blocks`` counts the null block, too."""

    num_blocks: int
    max_model_len: int


def longest_context(config: EngineConfig, served: int) -> int:
    """In tokens; ``served`` is what the model is made for. Raises ConfigError: more than that was asked for."""
    asked = config.max_model_len
    if asked is not None and asked > served:
        raise ConfigError("max_model_len", f"this model serves at most {served} tokens", value=asked)
    return asked or served


def pool_size(config: EngineConfig, max_model_len: int, *, block_bytes: int, memory: Callable[[], int]) -> PoolSize:
    """As ``config`` says, or as the ``memory`` has room for, in bytes. With too few blocks for a sequence of
    ``max_model_len`` that is cut.

    Raises:
        ConfigError: there are too few blocks for anything, or for a length that was asked for.
    """
    given = config.num_kv_blocks
    if given is not None and given < 3:
        raise ConfigError("num_kv_blocks", "a pool has at least 3 blocks", value=given)
    blocks = given if given is not None else memory() // block_bytes
    needed = -(-max_model_len // config.block_size) + 2  # the null block, and one for a copied tail
    if blocks >= needed:
        return PoolSize(blocks, max_model_len)
    holds = max(0, blocks - 2) * config.block_size
    if config.max_model_len is not None or holds < config.block_size:
        raise ConfigError(
            "max_model_len",
            f"needs {needed} KV blocks of {block_bytes} bytes, but there are {blocks}: lower it to {holds}, "
            "raise gpu_memory_utilization or num_kv_blocks, or use a smaller dtype or kv_cache_dtype",
            value=max_model_len,
        )
    return PoolSize(blocks, holds)


def too_many_blocks(blocks: int, block_bytes: int, device: object) -> ConfigError:
    """What to say where the ``device`` has no memory for them."""
    problem = (
        f"these blocks need {blocks * block_bytes:,} bytes ({block_bytes:,} each), more than "
        f"{device} gives; lower it, or leave it out to take what fits"
    )
    return ConfigError("num_kv_blocks", problem, value=blocks)


def bytes_on_cpu(share: float) -> int:
    """For a KV cache that may have this share of the memory."""
    return min(CPU_KV_BYTES, int(share * available_memory()))


def available_memory() -> int:
    """Bytes of host memory that can be taken without swapping."""
    try:
        lines = MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
