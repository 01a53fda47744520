"""A model's files as one SHA-256: whoever pins it serves these bytes, or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from chatpager.engine.model_folder import one_line, require_folder
from chatpager.errors import ModelLoadError

READ = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Whatever of a folder can change what is computed or what text becomes tokens; what is only to be read by people may
differ between two copies of one model."""


def model_digest(folder: Path) -> str:
    """64 hexadecimal digits, of the names and contents of the files; it reads all of the weights.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    require_folder(folder)
    whole = hashlib.sha256()
    for path in sorted({path for pattern in READ for path in folder.glob(pattern)}):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelLoadError(path, one_line(error)) from error
        whole.update(f"{content}  {path.name}\n".encode())
    return whole.hexdigest()


def require_digest(folder: Path, pinned: str | None) -> None:
    """None: any model will do.

    Raises:
        ModelLoadError: it is another model, or one whose files were changed.
    """
    if pinned is not None and (found := model_digest(folder)) != pinned.lower():
        reason = f"its files are others than those that model_sha256 pins: they are {found}, not {pinned.lower()}"
        raise ModelLoadError(folder, reason)
