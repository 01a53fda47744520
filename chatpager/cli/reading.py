"""Texts that a command is given as a file."""

from __future__ import annotations

import sys
from pathlib import Path

from chatpager.errors import ConfigError


def read_text(path: Path, name: str) -> str:
    """The UTF-8 text of a file, or of standard input for ``-``. Raises ConfigError, which calls it ``name``."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return raw.decode()
    except OSError as error:
        raise ConfigError(name, error.strerror or str(error), value=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(name, "is no UTF-8 text", value=str(path)) from error
