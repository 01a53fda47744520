"""Exchanging a model's linears for the CPU's own, merged where they read the same input.

transformers' own model classes run as they are; only their ``nn.Linear`` children are exchanged, at load. What is not
exactly ``nn.Linear`` (experts, routers, embeddings) stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from chatpager.engine.cpu_linears import Maker

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that are called with the same input one after the other: one product gives all."""


def exchange_linears(module: nn.Module, maker: Maker) -> None:
    """Exchange the linears in ``module`` for faster ones, in place; each original is let go of before the next.

    Of a dtype or on a processor that none of them is for, nothing is touched.
    """
    # No linear is in this list: it would keep every weight until the end.
    parents = [child for child in module.modules() if not isinstance(child, nn.Linear)]
    for parent in parents:
        for names in TOGETHER:
            _merge(parent, names, maker)
    for parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            if maker.takes(child):
                setattr(parent, name, maker.make([child]))


def _merge(parent: nn.Module, names: Sequence[str], maker: Maker) -> None:
    linears = [child for name in names if maker.takes(child := getattr(parent, name, None))]
    alike = {(linear.in_features, linear.weight.dtype, linear.bias is None) for linear in linears}
    if len(linears) < len(names) or len(alike) > 1:
        return
    shared = Shared(maker.make(linears), [linear.out_features for linear in linears])
    for i, name in enumerate(names):
        setattr(parent, name, Part(shared, i))


class Shared:
    """One product for several linears that read the same input. Whoever comes first with an input has it computed; it
    is kept until each part was taken once, and with it the input, so that it cannot be mistaken for another one."""

    def __init__(self, linear: nn.Module, sizes: list[int]) -> None:
        self._linear, self._sizes = linear, sizes
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if x is not self._input or index not in self._parts:
            self._input, self._parts = x, dict(enumerate(self._linear(x).split(self._sizes, -1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._input = None
        return part


class Part(nn.Module):
    """One of the linears of ``Shared``: columns of its product, not contiguous."""

    def __init__(self, shared: Shared, index: int) -> None:
        super().__init__()
        self._shared, self._index = shared, index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._shared.part(self._index, x)
