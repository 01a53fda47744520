"""The lower tiers that a config asks for, and how much they hold."""

from __future__ import annotations

import os
from pathlib import Path

from chatpager.config import EngineConfig
from chatpager.engine.block_files import sealed_by
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.host_tier import ENTRY_BYTES, HostTier
from chatpager.engine.pages import COPIED_TOGETHER, Pages
from chatpager.engine.saving import SAVED_IDLE
from chatpager.engine.tiers import Tiers
from chatpager.errors import ConfigError

GIB = 1 << 30


def host_capacity(config: EngineConfig, block_bytes: int) -> int:
    """Blocks that ``swap_space`` has room for."""
    return int(config.swap_space * GIB) // (block_bytes + ENTRY_BYTES)


def most_contents(config: EngineConfig, block_bytes: int) -> int:
    """Blocks that may be in host memory at a time: the tier's, those that are coming, and those going to the disk."""
    return host_capacity(config, block_bytes) + COPIED_TOGETHER + max(1, SAVED_IDLE // block_bytes)


def open_tiers(config: EngineConfig, pages: Pages, domain: BlockProof, key: bytes = b"") -> Tiers | None:
    """The lower tiers that ``config`` asks for, if any, for a model with this ``domain``; ``key`` is that of records.

    Raises:
        ConfigError: there is not so much host memory, or the folder for the disk tier cannot be used.
    """
    host = disk = None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.swap_space * GIB > memory:
        raise ConfigError("swap_space", f"is more than this machine's {memory / GIB:.0f} GiB", value=config.swap_space)
    if blocks := host_capacity(config, pages.block_bytes):
        host = HostTier(blocks)
    if config.kv_dir and config.disk_space:
        try:
            form = sealed_by(config.kv_key_file) if config.kv_key_file else None
            disk = DiskTier(Path(config.kv_dir).expanduser(), int(config.disk_space * GIB), domain, form, key)
        except OSError as error:
            raise ConfigError("kv_dir", f"cannot be used: {error}", value=config.kv_dir) from error
    return Tiers(pages, host=host, disk=disk) if host is not None or disk is not None else None
