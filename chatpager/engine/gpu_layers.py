"""Decoder layers of the common kind on a GPU: one product for q, k and v, one for gate and up, and a single launch
between two products: about ten launches a layer, where transformers' own takes 37 (Qwen3's 53).

transformers' model runs as it is; the layers in its list are exchanged at load, all or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from chatpager.engine.attention import PagedStep, attend
from chatpager.engine.cpu_layers import Norm, head_norms, is_common, linears_of, window_of


class Merged(nn.Module):
    """One product for linears that read the same input, one behind the other; all have a bias or none."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        biases: list[torch.Tensor] = [part.bias for part in linears if part.bias is not None]
        weights: list[torch.Tensor] = [part.weight for part in linears]
        self.weight = torch.cat(weights) if len(weights) > 1 else weights[0]  # alone not copied
        self.bias = torch.cat(biases) if biases else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class Layer(nn.Module):
    """Computes what ``layer`` does, whose parts it takes over."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx: int = attention.layer_idx
        self.dim: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.dim, attention.k_proj.out_features // self.dim
        self.scaling: float = attention.scaling
        self.window = window_of(attention)
        self.head_norms, self.head_eps = head_norms(attention)
        self.qkv = Merged([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = Merged([attention.o_proj])
        self.gate_up = Merged([mlp.gate_proj, mlp.up_proj])
        self.down = Merged([mlp.down_proj])
        self.before, self.between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)

    def forward(
        self,
        x: torch.Tensor,
        delta: torch.Tensor | None,
        angles: tuple[torch.Tensor, torch.Tensor],
        paged: PagedStep,
    ) -> torch.Tensor:
        """``x`` [T, hidden] takes up ``delta``, what the layer before left to add, and later this layer's attention,
        in place; what is to be added after that is returned."""
        from chatpager.kernels import cuda_rows  # triton is there on Linux only, and slow to import

        if delta is None:
            normed = cuda_rows.norm(x, self.before.weight, self.before.eps)
        else:
            normed = cuda_rows.add_norm(x, delta, self.before.weight, self.before.eps)
        rows = self.qkv(normed)
        cache, i = paged.cache, self.layer_idx
        cuda_rows.rotate_store(
            rows, self.heads, angles, self.head_norms, self.head_eps, (cache.keys[i], cache.values[i]),
            paged.batch.slot_mapping, cache.scales(i),
        )  # fmt: skip
        query = rows.view(len(rows), -1, self.dim)[:, : self.heads[0]]
        mixed = attend(query, self.layer_idx, paged, scale=self.scaling, sliding_window=self.window)
        between = cuda_rows.add_norm(x, self.o(mixed.flatten(1)), self.between.weight, self.between.eps)
        return self.down(cuda_rows.gate(self.gate_up(between)))


class Stack(nn.Module):
    """Stands in a model's list of layers as its only one."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        paged: PagedStep,
        **_: Any,
    ) -> torch.Tensor:
        """[1, T, hidden] -> the same tensor, written in place.

        Raises:
            ValueError: the rotary embedding turns a part of each head only, which the plain layers do not do either.
        """
        x, delta = hidden_states[0], None
        cos, sin = (angle[0] for angle in position_embeddings)
        for layer in self.layers:
            if cos.shape[-1] != layer.dim:
                raise ValueError(f"the rotary embedding has {cos.shape[-1]} dimensions, a head {layer.dim}")
            delta = layer(x, delta, (cos, sin), paged)
        if delta is not None:
            x += delta
        return hidden_states


def exchange_layers(module: nn.Module) -> None:
    """Exchange every list of decoder layers in ``module`` that are all of the common kind, in place; each original is
    let go of before the next is merged."""
    lists = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList)
    ]
    for parent, name, layers in lists:
        if not layers or not all(map(_is_served, layers)):
            continue
        given = []
        for i in range(len(layers)):
            given.append(Layer(layers[i]))
            layers[i] = nn.Identity()
        setattr(parent, name, nn.ModuleList([Stack(given)]))


def _is_served(layer: Any) -> bool:
    return is_common(layer) and all(type(one) is nn.Linear for one in linears_of(layer))
