"""The training forward pass over the weights of a ``LlamaForCausalLM``: the same function, faster on a small CPU.

A model of this size spends its time between the matrix products. Everything but attention is therefore compiled over
one flat list of tokens whose length never changes, with joined projections and bf16 between the products; the master
weights stay float32. ``tests/demo/test_forward.py`` holds it equal to transformers' own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from chatpager.demo.batches import Batch

SHORT = 256
"""Longest row, in tokens, whose attention is taken in float32."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in transformers' half-split layout; x is [tokens, heads, head_dim]."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def before_attention(
    x: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, head_dim: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    joined = rms_norm(x, norm, eps) @ torch.cat((q, k, v)).to(x.dtype).t()
    queries, keys, values = torch.split(joined, [q.shape[0], k.shape[0], v.shape[0]], -1)
    shape = (x.shape[0], -1, head_dim)
    return rotate(queries.reshape(shape), cos, sin), rotate(keys.reshape(shape), cos, sin), values.reshape(shape)


def after_attention(
    x: Tensor, attended: Tensor, out: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor, eps: float
) -> Tensor:
    x = x + attended @ out.to(x.dtype).t()
    gated, straight = (rms_norm(x, norm, eps) @ torch.cat((gate, up)).to(x.dtype).t()).chunk(2, -1)
    return x + (functional.silu(gated) * straight) @ down.to(x.dtype).t()


def loss_sum(x: Tensor, norm: Tensor, head: Tensor, predict: Tensor, targets: Tensor, eps: float) -> Tensor:
    logits = rms_norm(x[predict], norm, eps) @ head.to(x.dtype).t()
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


class Forward:
    """``loss`` of a batch; ``cells`` is the fixed number of tokens that a batch is padded to."""

    def __init__(self, model: Any, cells: int, *, compiled: bool, dtype: torch.dtype = torch.bfloat16) -> None:
        self.model, self.cells, self.dtype = model, cells, dtype
        functions: tuple[Callable[..., Any], ...] = (before_attention, after_attention, loss_sum)
        self.before, self.after, self.last = (torch.compile(f, dynamic=False) if compiled else f for f in functions)
        config = model.config
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        frequencies = model.model.rotary_emb.inv_freq
        angles = torch.arange(config.max_position_embeddings, device=frequencies.device)[:, None] * frequencies
        self.cos, self.sin = angles.cos()[:, None], angles.sin()[:, None]

    def loss(self, batch: Batch) -> Tensor:
        """The summed cross-entropy, in nats, of the assistant's tokens."""
        model = self.model
        rows, length = batch.input_ids.shape
        spare = max(0, self.cells - rows * length)
        places = functional.pad(batch.position_ids.flatten(), (0, spare))
        cos, sin = self.cos[places], self.sin[places]
        ids = functional.pad(batch.input_ids.flatten(), (0, spare))
        x = functional.embedding(ids, model.model.embed_tokens.weight).to(self.dtype)
        for layer in model.model.layers:
            x = self.layer(layer, x, cos, sin, rows, length)
        # The number of targets differs in every batch; rounded up, it takes at most eight values.
        unit = self.cells // 8
        short = -batch.predict.numel() % unit
        predict, targets = (
            functional.pad(batch.predict, (0, short)),
            functional.pad(batch.targets, (0, short), value=-100),
        )
        total: Tensor = self.last(
            x, model.model.norm.weight, model.model.embed_tokens.weight, predict, targets, self.eps
        )
        return total

    def layer(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, rows: int, length: int) -> Tensor:
        a, mlp = layer.self_attn, layer.mlp
        weights = (layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight)
        qkv = self.before(x, *weights, cos, sin, self.head_dim, self.eps)
        used = rows * length
        q, k, v = (z[:used].view(rows, length, -1, self.head_dim).transpose(1, 2) for z in qkv)
        # Measured on a CPU with AMX: up to here the float32 kernel takes half the time of the bf16 one.
        if length <= SHORT:
            q, k, v = q.float(), k.float(), v.float()
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).to(x.dtype)
        flat = functional.pad(attended.transpose(1, 2).reshape(used, -1), (0, 0, 0, x.shape[0] - used))
        mlp_weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
        following: Tensor = self.after(
            x, flat, a.o_proj.weight, layer.post_attention_layernorm.weight, *mlp_weights, self.eps
        )
        return following
