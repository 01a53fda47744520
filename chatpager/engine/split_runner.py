"""``ModelRunner`` of a model that is split: the first rank's, which the engine has, and the others', which follow it.

Every rank has the keys and values of its own heads in the same blocks. The first one plans, samples and keeps the
books; before each step it tells the others what the model reads, and what lies in a block is what all have of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from chatpager.config import EngineConfig
from chatpager.engine import loader, rank_frames, tensor_parallel
from chatpager.engine.batch import Batch
from chatpager.engine.block_hash import Field
from chatpager.engine.host_tier import Content
from chatpager.engine.model_runner import TRIAL_BLOCKS, ModelRunner
from chatpager.engine.pool_size import PoolSize
from chatpager.engine.rank_frames import Measure, Open, ReadBlocks, Room, Settings, Step, WriteBlocks
from chatpager.engine.ranks import Ranks
from chatpager.engine.tensor_parallel import Part, Sums
from chatpager.engine.thread_choice import ThreadChoice, candidates
from chatpager.errors import ConfigError, EngineError, RankLost
from chatpager.kernels.paged_attention import Workspace


def open_runner(config: EngineConfig) -> ModelRunner:
    """Of the whole model, or of the first part and the others' processes. Raises what ``ModelRunner`` does."""
    return FirstRunner(config) if config.tensor_parallel_size > 1 else ModelRunner(config)


def _load(config: EngineConfig, part: Part, sums: Sums) -> loader.LoadedModel:
    return loader.load(
        Path(config.model),
        dtype=config.dtype,
        device=config.device,
        quantization=config.quantization,
        split=loader.Split(part, sums),
    )


class FirstRunner(ModelRunner):
    """Raises, beside what ``ModelRunner`` does:

    ConfigError: the model cannot be split so, or there are not as many devices.
    ModelLoadError: another rank could not load its part.
    RankLost: another rank has ended. From then on it is of no use.
    """

    def __init__(self, config: EngineConfig) -> None:
        size = config.tensor_parallel_size
        tensor_parallel.check(loader.check(Path(config.model)).config, size)
        _require_devices(config)
        threads = config.num_threads or max(1, torch.get_num_threads() // size)
        self._ranks = Ranks(config, threads)
        try:
            model = _load(config, Part(0, size), self._ranks.sums)
            self._ranks.ready()
            self._ranks.meet(model.device)
            super().__init__(config, model)
        except BaseException:
            self._ranks.close()
            raise
        self._threads = ThreadChoice([threads] if config.num_threads else candidates(threads))

    @property
    def lost(self) -> RankLost | None:
        return self._ranks.lost

    @property
    def _has_graphs(self) -> bool:
        return False  # what the others are told would not be in one

    # -- sizes: of all ranks together ---------------------------------------------------------------------------------

    @property
    def block_bytes(self) -> int:
        return super().block_bytes * self._ranks.size

    def _open(self, num_blocks: int) -> None:
        super()._open(num_blocks)
        try:
            self._ranks.ask(Open(num_blocks))
        except RankLost:
            raise
        except EngineError as error:
            raise RuntimeError(str(error)) from error  # as torch's allocator would here

    def _kv_bytes(self) -> int:
        """On GPUs what the fullest of them has room for, on each; on a CPU all have one memory."""
        if self.model.device.type == "cpu":
            return super()._kv_bytes()
        self._ranks.ask(Measure())
        own = super()._kv_bytes()
        return min(own, *self._ranks.ask(Room())) * self._ranks.size

    def hash_domain(self) -> Iterable[tuple[str, Field]]:
        return (*super().hash_domain(), ("ranks", self._ranks.size))

    # -- steps and blocks ---------------------------------------------------------------------------------------------

    def _logits(self, batch: Batch, workspace: Workspace) -> torch.Tensor:
        with self._ranks.beside(rank_frames.step_of(batch)):
            return super()._logits(batch, workspace)

    @property
    def copies_later(self) -> bool:
        return False  # the ranks send each other bytes

    def read_blocks(self, ids: Iterable[int]) -> list[bytes]:
        """The ranks' contents one behind the other."""
        asked = list(ids)
        others = self._ranks.ask(ReadBlocks(asked))
        return [b"".join(parts) for parts in zip(map(bytes, super().read_blocks(asked)), *others, strict=True)]

    def write_blocks(self, ids: Iterable[int], contents: Iterable[Content]) -> None:
        asked, whole = list(ids), [bytes(one) for one in contents]
        share = super().block_bytes
        parts = [[one[rank * share : (rank + 1) * share] for one in whole] for rank in range(self._ranks.size)]
        self._ranks.tell_each([WriteBlocks(asked, part) for part in parts[1:]])
        super().write_blocks(asked, parts[0])


class OtherRunner(ModelRunner):
    """Of another rank, in its own process."""

    def __init__(self, told: Settings) -> None:
        self.part = Part(told.rank, told.config.tensor_parallel_size)
        self._sums, self._place = Sums(), Path(told.place)
        self._before = 0
        super().__init__(told.config, _load(told.config, self.part, self._sums))

    def _size(self, longest: int) -> PoolSize:
        return PoolSize(TRIAL_BLOCKS, longest)  # the first rank says how many there are

    @property
    def _has_graphs(self) -> bool:
        return False

    def _warm_up(self) -> None:
        """Beside the first rank, when that does."""

    def meet(self) -> None:
        self._sums.meet(self.part, self._place, self.model.device)

    @torch.inference_mode()
    def follow(self, step: Step) -> None:
        self.forward(rank_frames.batch_of(step, self.model.device))

    def answer(self, asked: Any) -> int | list[bytes] | None:
        device = self.model.device
        match asked:
            case Open(blocks):
                vars(self).pop("cache", None)  # first, for both do not fit side by side
                self._open(blocks)
            case Measure():
                torch.cuda.reset_peak_memory_stats(device)
                self._before = torch.cuda.memory_allocated(device)
            case Room():
                return self._room(torch.cuda.max_memory_allocated(device) - self._before)
            case ReadBlocks(ids):
                return [bytes(one) for one in self.read_blocks(ids)]
        return None

    def _room(self, step: int) -> int:
        del self.cache
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.model.device)
        return max(0, int(self.config.gpu_memory_utilization * total) - (total - free) - step)


def _require_devices(config: EngineConfig) -> None:
    size, there = config.tensor_parallel_size, torch.cuda.device_count()
    if config.device != "cpu" and 0 < there < size:
        problem = f"torch sees {there} CUDA device{'s' if there > 1 else ''}; lower it, or use --device cpu"
        raise ConfigError("tensor_parallel_size", problem, value=size)
