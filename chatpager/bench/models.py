"""Random-weight models in the shapes of real ones: nothing is downloaded, and speed does not depend on the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from chatpager.errors import ConfigError

SHAPES: dict[str, dict[str, int]] = {
    "15m": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8},
    "100m": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
POSITIONS = 34_816
"""32k, and room for turns after them."""


def make_model(shape: str, folder: Path, *, seed: int = 1234) -> int:
    """Write a Llama of this shape, with the built-in model's tokenizer; returns the number of its parameters.

    Raises:
        ConfigError: there is no such shape.
    """
    if shape not in SHAPES:
        raise ConfigError("shape", f"must be one of {', '.join(SHAPES)}", value=shape)
    import torch
    import transformers

    from chatpager.demo import model_path

    builtin = model_path()
    vocab = transformers.AutoConfig.from_pretrained(builtin).vocab_size
    size: dict[str, Any] = SHAPES[shape]
    config = transformers.LlamaConfig(
        **size,
        num_key_value_heads=4,
        vocab_size=vocab,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (builtin / name).is_file():
            shutil.copy(builtin / name, folder)
    return sum(p.numel() for p in model.parameters())


def letter(folder: Path) -> int:
    """A token of one letter."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids[0])
