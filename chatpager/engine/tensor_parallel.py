"""A model split over ranks: what of it a rank has, and where their parts of a product are added up.

Split is what transformers' own plan for the architecture says: queries, keys and values by heads, the gated product by
its columns, and what follows each by rows, whose products are partial sums. Its own way of doing that (DTensors and
hooks of ``nn.Linear``) does not outlive the layers being exchanged for merged ones, so a rank reads its slices of the
files into a model of a configuration with as many heads as it has, and adds up behind two products of each layer.
Embedding, norms and head are every rank's; only the first one's head is asked.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from chatpager.engine.cpu_stack import Stack
from chatpager.errors import ConfigError

COLUMNS, ROWS, WHOLE = "colwise", "rowwise", "replicated_with_grad_allreduce"
PLAN = {
    **{f"layers.*.self_attn.{name}_proj": COLUMNS for name in "qkv"},
    "layers.*.self_attn.o_proj": ROWS,
    "layers.*.mlp.gate_proj": COLUMNS,
    "layers.*.mlp.up_proj": COLUMNS,
    "layers.*.mlp.down_proj": ROWS,
}
"""What an architecture's plan must say, apart from what every rank has whole."""
_SPLIT = re.compile(r"(?:model\.)?(layers\.)\d+(\.(?:self_attn|mlp)\.\w+)\.(weight|bias)")
_PARTIAL = "o_proj", "down_proj", "o", "down"
"""Names of modules, transformers' and ours, whose products are partial sums."""
PATIENCE = timedelta(minutes=10)
"""For the other ranks; who has ended is noticed at once."""


@dataclass(frozen=True)
class Part:
    """Of a model: number ``rank`` of ``size``."""

    rank: int
    size: int


def check(config: Any, size: int) -> None:
    """Raises ConfigError: a model of this configuration cannot be split over so many ranks."""
    plan = {name: style for name, style in (config.base_model_tp_plan or {}).items() if style != WHOLE}
    if plan != PLAN:
        problem = f"the layers of a {config.model_type} model cannot be split; leave it 1"
        raise ConfigError("tensor_parallel_size", problem, value=size)
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    parts = {"attention heads": config.num_attention_heads, "KV heads": kv_heads, "columns": config.intermediate_size}
    uneven = next((f"{count} {name}" for name, count in parts.items() if count % size), None)
    if uneven:
        most = math.gcd(*parts.values())
        sizes = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
        raise ConfigError("tensor_parallel_size", f"does not divide the model's {uneven}; use {sizes}", value=size)


def config_of(config: Any, part: Part) -> Any:
    """Of the model that ``part`` is."""
    heads = config.num_attention_heads
    changed = copy.deepcopy(config)
    changed.head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    changed.num_key_value_heads = (getattr(config, "num_key_value_heads", None) or heads) // part.size
    changed.num_attention_heads = heads // part.size
    changed.intermediate_size = config.intermediate_size // part.size
    return changed


def tensors_of(files: Iterable[Path], part: Part) -> dict[str, torch.Tensor]:
    """The part's weights by name; of the rest of the files nothing is read."""
    found: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {name: _slice(file.get_slice(name), name, part) for name in file.keys()}  # noqa: SIM118
    return found


def _slice(stored: Any, name: str, part: Part) -> torch.Tensor:
    split = _SPLIT.fullmatch(name)
    style = PLAN.get(f"{split[1]}*{split[2]}") if split else None
    if style is None:
        return stored[:]
    shape = stored.get_shape()
    if style == COLUMNS:
        return stored[_range(shape[0], part)]
    if len(shape) == 2:
        return stored[:, _range(shape[1], part)].contiguous()
    return stored[:] if part.rank == 0 else torch.zeros_like(stored[:])  # a bias is added once


def _range(size: int, part: Part) -> slice:
    share = size // part.size
    return slice(part.rank * share, (part.rank + 1) * share)


class Sums:
    """Adds up what the ranks have, once they have met."""

    def __init__(self) -> None:
        self._group: Any = None
        self.abort: Callable[[], None] = lambda: None
        """Let go of who waits for a rank that has ended; on a CPU they notice it themselves."""

    def meet(self, part: Part, place: Path, device: torch.device) -> None:
        """Wait for the others. ``place`` is a file's, the same for all, that is not there yet."""
        import torch.distributed

        dist: Any = torch.distributed  # whose stubs lack some of it
        store = dist.FileStore(str(place), part.size)
        if device.type == "cuda":
            group = dist.ProcessGroupNCCL(store, part.rank, part.size, dist.ProcessGroupNCCL.Options())
            self._group, self.abort = group, group.abort
            return
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = PATIENCE
        self._group = dist.ProcessGroupGloo(store, part.rank, part.size, options)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' ``x``, in its place. Raises RuntimeError: one of them has ended."""
        self._group.allreduce([x]).wait()
        return x


class Summed(nn.Module):
    """A linear whose product is a part of the sum."""

    def __init__(self, part: nn.Module, sums: Sums) -> None:
        super().__init__()
        self.part, self._sums = part, sums

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._sums(self.part(x))


def add_up(module: nn.Module, sums: Sums) -> None:
    """Exchange, in place, what makes partial sums in ``module``, whose layers may have been exchanged before."""
    for parent in list(module.modules()):
        for name in _PARTIAL:
            child = getattr(parent, name, None)
            if isinstance(child, nn.Module):
                setattr(parent, name, Summed(child, sums))
    for stack in module.modules():
        if isinstance(stack, Stack):
            stack.look_again()
