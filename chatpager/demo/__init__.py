"""The built-in model of chatpager: its weights as package data, and the code that made them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def model_path() -> Path:
    """The folder of the built-in model: config, tokenizer and safetensors, as transformers reads them."""
    return Path(str(files(__name__) / "model"))
