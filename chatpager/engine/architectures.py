"""Which of transformers' architectures the paged attention seam serves, and what it refuses.

Served means: every attention layer goes through ``AttentionInterface`` with keys and values of one shape, positions
alone decide the rotary embedding, and a token's result depends on its own sequence only. Each entry is proven token for
token against ``transformers.generate`` in ``tests/engine/test_token_exact.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpager.errors import UnsupportedModel

SERVED = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
}

ROPE_BY_LENGTH = {"dynamic", "longrope"}
"""Rotary types whose frequencies change with the longest position of the batch, past the original window."""


@dataclass(frozen=True)
class Shape:
    """What the KV cache and the scheduler need to know of a model."""

    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    group: int = 1
    """Query heads of one KV head."""

    def bytes_per_token(self, element_size: int, scale_size: int = 0) -> int:
        """``scale_size``: bytes beside a head's numbers."""
        return 2 * self.layers * self.kv_heads * (self.head_dim * element_size + scale_size)


def check(config: Any, path: Path) -> Shape:
    """The shape of a model that can be served.

    Raises:
        UnsupportedModel: with what is missing.
    """
    kind = getattr(config, "model_type", None)
    if kind not in SERVED:
        raise UnsupportedModel(path, f"model_type {kind!r} is not one of those served: {', '.join(sorted(SERVED))}")
    for problem in (_quantised(config), _bidirectional(config), _rope(config)):
        if problem:
            raise UnsupportedModel(path, problem)
    if problem := _sizes(config):
        raise UnsupportedModel(path, problem)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % kv_heads:
        raise UnsupportedModel(path, f"{heads} attention heads cannot share {kv_heads} KV heads evenly")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if not head_dim:
        raise UnsupportedModel(path, f"hidden_size {config.hidden_size} is too small for {heads} attention heads")
    return Shape(
        layers=config.num_hidden_layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_positions=_max_positions(config),
        group=heads // kv_heads,
    )


SIZES = ("num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings")
SIZES_OR_NONE = ("num_key_value_heads", "head_dim")


def _sizes(config: Any) -> str | None:
    absent = [name for name in SIZES_OR_NONE if getattr(config, name, None) is None]
    for name in (*SIZES, *SIZES_OR_NONE):
        value = getattr(config, name, None)
        if name not in absent and (type(value) is not int or value < 1):
            return f"its {name} is {value!r}, not a whole number above 0"
    return None


def _quantised(config: Any) -> str | None:
    method = getattr(config, "quantization_config", None)
    if not method:
        return None
    name = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", method)
    return f"its weights are quantised ({name}); serve the float weights"


def _bidirectional(config: Any) -> str | None:
    if getattr(config, "use_bidirectional_attention", False):
        return "it attends in both directions; only causal models can be served"
    return None


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The parameters of every rotary embedding; some models have one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return [p for p in parameters.values() if isinstance(p, dict)] or [parameters]


def _rope_types(config: Any) -> set[str]:
    return {str(p.get("rope_type", "default")) for p in _ropes(config)}


def _rope(config: Any) -> str | None:
    unknown = _rope_types(config) - {"default", "linear", "llama3", "yarn", "proportional", *ROPE_BY_LENGTH}
    if unknown:
        return f"its rotary embedding {', '.join(sorted(unknown))} is not served"
    for name in ("rope_theta", "factor"):
        for value in (p.get(name) for p in _ropes(config)):
            if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
                return f"its {name} is {value!r}, not a number above 0"
    return None


def _max_positions(config: Any) -> int:
    """The longest sequence whose rotary frequencies do not depend on the other sequences of the batch."""
    longest: int = config.max_position_embeddings
    if "longrope" in _rope_types(config):
        parameters = config.rope_parameters or {}
        return int(
            parameters.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or longest
        )
    return longest
