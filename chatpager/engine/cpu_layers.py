"""Decoder layers of the common kind on a CPU: one product for q, k and v, one for gate and up, and a single pass over
the rows between two products.

transformers' model runs as it is; the layers in its list are exchanged at load. Of a step of one row a third of the
time went into the eighty or so small operations of each layer. A layer is of the common kind if its class is known here
and its parts are what the class says; any other stays, with its linears exchanged one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from chatpager.engine.attention import PagedStep, paged_attention_forward
from chatpager.engine.cpu_linears import Maker
from chatpager.kernels import cpu_rows
from chatpager.kernels.cpu_code import Kernel

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
COMMON = {f"{family}DecoderLayer" for family in FAMILIES}
"""Norm, attention with rotary embedding, sum, norm, gated product, sum. Qwen3 norms each head of q and k as well."""


def is_common(layer: Any) -> bool:
    """Whether the layer is of the common kind; what its linears are is for others to look at."""
    if type(layer).__name__ not in COMMON:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    merged = (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)
    alike = all(len({linear.bias is None for linear in linears}) == 1 for linears in merged)
    return alike and type(mlp.act_fn) in (nn.SiLU, SiLUActivation)


def linears_of(layer: Any) -> list[Any]:
    """q, k, v and o, gate, up and down of a layer of the common kind."""
    attention, mlp = layer.self_attn, layer.mlp
    linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*linears, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def head_norms(attention: Any) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, float]:
    """The weights with which heads of q and of k are normed, if they are, and their epsilon."""
    norms = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    return ((norms[0].weight, norms[1].weight), norms[0].variance_epsilon) if norms else (None, 0.0)


def _kernel_for(layer: Any, maker: Maker) -> Kernel | None:
    """What computes between the products of this layer; None if it is to stay as it is."""
    if not is_common(layer) or not all(map(maker.takes, linears := linears_of(layer))):
        return None
    return cpu_rows.kernel(linears[0].weight.dtype)


class Layer(nn.Module):
    """Computes what ``layer`` does, whose parts it takes over.

    Args:
        layer: of a class in ``COMMON``.
        kernel: ``cpu_rows``' for its dtype.
        maker: of its linears.
    """

    def __init__(self, layer: Any, kernel: Kernel, maker: Maker) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx: int = attention.layer_idx
        self.kernel = kernel
        self.dim: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.dim, attention.k_proj.out_features // self.dim
        self.scaling: float = attention.scaling
        self.window = window_of(attention)
        self.qkv = maker.make([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o = maker.make([attention.o_proj])
        self.gate_up = maker.make([mlp.gate_proj, mlp.up_proj])
        self.down = maker.make([mlp.down_proj])
        self.head_norms, self.head_eps = head_norms(attention)
        self.before, self.between = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        paged: PagedStep,
    ) -> torch.Tensor:
        """[1, T, hidden] -> the same tensor, written in place.

        Raises:
            ValueError: the rotary embedding turns a part of each head only, which the plain layers do not do either.
        """
        kernel, x = self.kernel, hidden_states[0]
        rows = self.qkv(cpu_rows.norm(kernel, x, self.before.weight, self.before.eps))
        cos, sin = position_embeddings
        if cos.shape[-1] != self.dim:
            raise ValueError(f"the rotary embedding has {cos.shape[-1]} dimensions, a head {self.dim}")
        cpu_rows.rotate(kernel, rows, self.heads, (cos[0], sin[0]), self.head_norms, self.head_eps)
        mixed = self.o(self._attend(rows, paged))
        between = cpu_rows.add_norm(kernel, x, mixed, self.between.weight, self.between.eps)
        x += self.down(cpu_rows.gate(kernel, self.gate_up(between)))
        return hidden_states

    def as_heads(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, heads * dim] -> [T, heads, dim], the same memory."""
        return rows.view(len(rows), -1, self.dim)

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of what ``qkv`` gives, [T, heads, dim] each."""
        both, (heads, kv_heads) = self.as_heads(rows), self.heads
        return both[:, :heads], both[:, heads:-kv_heads], both[:, -kv_heads:]

    def _attend(self, rows: torch.Tensor, paged: PagedStep) -> torch.Tensor:
        query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in self.split(rows))
        out, _ = paged_attention_forward(
            self, query, key, value, None, self.scaling, sliding_window=self.window, paged=paged
        )
        return out.view(len(rows), -1)


class Norm(nn.Module):
    """The numbers of an RMS norm."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight: torch.Tensor = norm.weight
        self.eps: float = norm.variance_epsilon


def window_of(attention: Any) -> int | None:
    """Mistral's attention asks its configuration each time; Llama's has no window, whatever its configuration says."""
    if type(attention).__name__ == "MistralAttention":
        return getattr(attention.config, "sliding_window", None)
    return getattr(attention, "sliding_window", None)


def fused(layers: nn.ModuleList, maker: Maker) -> list[Layer] | None:
    """Layers that take over ``layers``, of which nothing is left; None, and nothing done, if one is of another kind."""
    kernels = [_kernel_for(layer, maker) for layer in layers]
    if not kernels or None in kernels:
        return None
    given = []
    for i, kernel in enumerate(kernels):
        assert kernel is not None
        given.append(Layer(layers[i], kernel, maker))
        layers[i] = nn.Identity()
    return given
