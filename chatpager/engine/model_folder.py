"""A model's folder comes from elsewhere: whatever is wrong with a file of it is a ``ModelLoadError`` of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatpager.errors import ModelLoadError


def require_folder(path: Path) -> None:
    if not path.is_dir():
        reason = "no such folder (a model is a folder with config.json, *.safetensors and a tokenizer)"
        raise ModelLoadError(path, reason)


def read_json(path: Path, *, required: bool) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file and none is ``required``."""
    if not path.is_file():
        if required:
            raise ModelLoadError(path, "no such file")
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(path, f"not readable as JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(path, "not a JSON object")
    return value


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
