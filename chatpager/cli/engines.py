"""Engines as a server's settings want them, wherever they are made."""

from __future__ import annotations

import gc
import os
from dataclasses import replace

import msgspec
import structlog

from chatpager.config import Config, EngineConfig
from chatpager.engine.engine import Engine
from chatpager.engine.runner import Runner
from chatpager.errors import ConfigError
from chatpager.sessions.ray_actor import digest

log = structlog.get_logger("chatpager")

COLLECTED_AFTER = 25_000, 2, 34
"""Objects more than before, and collections of younger ones. A step of 1,000 streams makes 10,000 and gives them back:
with Python's own 700 the collector looks several times in each and finds nothing. No thread runs while it looks: at
100,000 that stayed for 5 ms, where at 300,000 (25,000, 10, 10) it was 16, and as often at all of them."""


class EngineMaker(msgspec.Struct, kw_only=True, dict=True):
    """``default_kv_dir`` is where KV blocks are kept that ``config`` names no folder for, if it can be used; ``domain``
    is that of the blocks that are found there. One model is loaded for all engines that it makes."""

    config: EngineConfig
    default_kv_dir: str
    domain: bytes

    def __post_init__(self) -> None:
        self._loaded: list[Runner] = []

    def build(self) -> Engine:
        """Raises ConfigError, ModelLoadError."""
        if self._loaded and self._loaded[0].lost:
            self._loaded.clear()
        if not self._loaded:
            self._loaded.append(_make_model(self.config))
        config, runner = self.config, self._loaded[0]
        if config.kv_dir or config.engine == "fake":  # whose blocks are so small that the disk would hold millions
            return Engine(config, runner, domain=self.domain)
        try:
            return Engine(replace(config, kv_dir=self.default_kv_dir), runner, domain=self.domain)
        except ConfigError as error:
            if error.name != "kv_dir":
                raise
            log.warning("kv_dir", problem=str(error), result="no KV blocks are kept on disk")
            return Engine(config, runner, domain=self.domain)


def devices_of_replicas(config: Config) -> list[str | None]:
    """As CUDA_VISIBLE_DEVICES has it, for each; None where the CPU computes.

    Raises:
        ConfigError: there are fewer devices than they need.
    """
    import torch

    from chatpager.engine.loader import has_gpu

    count, each = config.server.replicas, config.engine.tensor_parallel_size
    if config.engine.engine == "fake" or not has_gpu(config.engine.device):
        return [None] * count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if len(names) < count * each:
        raise ConfigError("replicas", f"need {count * each} CUDA devices, and there are {len(names)}", value=count)
    return [",".join(names[i * each : (i + 1) * each]) for i in range(count)]


class ChildSettings(msgspec.Struct):
    """What an engine in a process of its own is told of the settings: the first frame that it reads. ``version`` is the
    server's: an actor that outlived an upgrade runs what was there before, and has other settings so."""

    maker: EngineMaker
    log_format: str
    version: str

    def agreed(self) -> str:
        """The digest of what servers of one actor must have alike: all but where and how the first of them has it keep
        blocks and log."""
        maker = EngineMaker(config=self.maker.config, default_kv_dir="", domain=self.maker.domain)
        return digest(msgspec.msgpack.encode(ChildSettings(maker, "", self.version)))


def _make_model(config: EngineConfig) -> Runner:
    """What computes the tokens."""
    if config.engine == "fake":
        from chatpager.engine.fake_runner import FakeRunner

        log.warning("engine.fake", result="no model answers: all that is said is made up")
        return FakeRunner(config)
    from chatpager.engine.split_runner import open_runner

    return open_runner(config)


def settle_memory() -> None:
    """What was imported and loaded is there for good. The collector, which did not run until now, would look through it
    all, for half a second and more, whenever there are many sockets; it looks once, while nobody waits yet, and then at
    what came since."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    gc.enable()
