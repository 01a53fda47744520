"""How this program is called from here, so that the commands it prints work as they are pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """``chatpager`` where PATH finds the one that was started; else its path, or ``python -m`` where Python was."""
    started = Path(sys.argv[0])
    if started.name != "chatpager":
        return f"{python()} -m chatpager"
    found = shutil.which("chatpager")
    return "chatpager" if found and Path(found).absolute() == started.absolute() else _from_here(started)


def python() -> str:
    """The interpreter that runs this."""
    return _from_here(Path(sys.executable))


def _from_here(path: Path) -> str:
    """``path`` for a shell in this folder: relative where it lies below, and that is not everything."""
    path, here = path.absolute(), Path.cwd()  # not resolved: a virtual environment's Python is a link
    shown = str(path.relative_to(here) if here.name and path.is_relative_to(here) else path)
    return shlex.quote(shown if os.sep in shown else os.path.join(".", shown))
