"""Random-weight models in the shapes of real ones: nothing is downloaded, and speed does not depend on the weights.

They are written tensor by tensor, so the largest needs the memory of one shard. No folder names an end of answers, and
greedy sampling picks none but tokens of plain letters: answers have the length that was asked for on every server, one
that refuses ``ignore_eos`` too, and each token has a text by which a client sees it come.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatpager.errors import ConfigError

if TYPE_CHECKING:
    import torch

POSITIONS = 34_816
"""32k, and room for turns after them."""
SHARD_BYTES = 1 << 30
DEVIATION = 0.02
"""Of the weights: what transformers begins a training with."""
EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """``vocab`` of 0: as many as the tokenizer has. ``rope``: theta, or all of the rotary embedding's parameters."""

    family: str
    hidden: int
    inter: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int = 0
    tied: bool = True
    positions: int = POSITIONS
    rope: float | dict[str, Any] = 1e6
    epsilon: float = EPSILON


LLAMA_3_1_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES = {
    "15m": Shape("llama", 256, 1024, 12, 8, 4, 32, rope=10_000.0),
    "100m": Shape("llama", 768, 3072, 12, 12, 4, 64, rope=10_000.0),
    "llama-15m": Shape("llama", 256, 1024, 8, 8, 4, 32, vocab=8192, tied=False),
    "160m": Shape("qwen3", 768, 3072, 16, 12, 4, 64, vocab=8192, tied=False),
    "500m": Shape("qwen2", 896, 4864, 24, 14, 2, 64, vocab=32_768),
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, 16, 8, 128, vocab=151_936, positions=40_960),
    "llama-8b": Shape(
        "llama", 4096, 14_336, 32, 32, 8, 128,
        vocab=128_256, tied=False, positions=131_072, rope=LLAMA_3_1_ROPE, epsilon=1e-5,
    ),
}  # fmt: skip
"""``15m`` and ``100m`` (13 and 87 million with the built-in vocabulary) are what the other measurements' figures are
of; the rest are shapes that other servers were measured with, the last two as published."""
CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}
TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja")


def make_model(shape: str, folder: Path, *, seed: int = 1234) -> int:
    """Write a model of this shape in bf16, with the built-in model's tokenizer and chat template; returns the number
    of its parameters. The same seed gives the same bytes.

    Raises:
        ConfigError: there is no such shape, or the folder has something in it or cannot be made.
    """
    if shape not in SHAPES:
        raise ConfigError("shape", f"must be one of {', '.join(SHAPES)}", value=shape)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("out", "is there already; name a new or an empty folder", value=str(folder))
    from chatpager.demo import model_path

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the folder cannot be made: {error.strerror}; name another one"
        raise ConfigError("out", problem, value=str(folder)) from None
    _write_tokenizer(model_path(), folder)
    config = _config(SHAPES[shape], folder)
    parameters = _write_weights(config, folder, seed)
    config.save_pretrained(folder)
    return parameters


def _write_tokenizer(builtin: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copy(builtin / name, folder)
    settings = json.loads((builtin / "tokenizer_config.json").read_text())
    # It stays a token that the template writes, but ends nothing: servers stop at the tokenizer's end too.
    settings["extra_special_tokens"] = [*settings.get("extra_special_tokens", []), settings.pop("eos_token")]
    settings.pop("model_max_length", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _config(shape: Shape, folder: Path) -> Any:
    import transformers
    from tokenizers import Tokenizer

    config_class, model_class = CLASSES[shape.family]
    rope = shape.rope if isinstance(shape.rope, dict) else {"rope_type": "default", "rope_theta": shape.rope}
    return getattr(transformers, config_class)(
        architectures=[model_class],
        hidden_size=shape.hidden,
        intermediate_size=shape.inter,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab or Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        max_position_embeddings=shape.positions,
        rope_parameters=rope,
        rms_norm_eps=shape.epsilon,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        dtype="bfloat16",
    )


def _write_weights(config: Any, folder: Path, seed: int) -> int:
    """Shards of at most ``SHARD_BYTES`` (or one tensor) and their index; one shard is in memory at a time."""
    import torch
    import transformers
    from safetensors.torch import save_file

    with torch.device("meta"):
        names = getattr(transformers, config.architectures[0])(config).state_dict()
    if config.tie_word_embeddings:
        names.pop("lm_head.weight", None)
    shards = list(_shards(names))
    silent = _silent_ids(folder, config.vocab_size)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    random = torch.Generator().manual_seed(seed)
    places: dict[str, str] = {}
    size = 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {name: _tensor(name, names[name].shape, random) for name in shard}
        if head in tensors:
            # No score of theirs is above nought, and the best of all the others' is.
            tensors[head][silent] = 0
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
        size += sum(t.nbytes for t in tensors.values())
        del tensors
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sum(math.prod(names[name].shape) for name in names)


def _shards(names: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, tensor in names.items():
        nbytes = 2 * tensor.numel()
        if shard and size + nbytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += nbytes
    yield shard


def _tensor(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    import torch

    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith(".bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, DEVIATION, generator=random)


def _silent_ids(folder: Path, vocab: int) -> list[int]:
    """Ids that have no text of their own: special ones, halves of characters, those that the tokenizer has not."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in range(tokenizer.get_vocab_size())]
    return [i for i in range(vocab) if i >= len(texts) or not (texts[i].isascii() and texts[i].strip().isalpha())]


def letter(folder: Path) -> int:
    """A token of one letter."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids[0])
