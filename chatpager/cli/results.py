"""``--out`` of the measurements: refused before anything is measured, not after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatpager.errors import ConfigError


def writable(out: str | None) -> str | None:
    """Raises ConfigError: the file has another kind of name, there is no folder for it, or it cannot be written."""
    if out is None:
        return None
    file = Path(out).expanduser()
    if file.suffix != ".json":
        raise ConfigError("out", "name a file that ends in .json; a page goes beside it under .html", value=out)
    if not file.absolute().parent.is_dir():
        raise ConfigError("out", "its folder is not there; make it first", value=out)
    if file.is_dir():
        raise ConfigError("out", "is a folder; name a file in it", value=out)
    was_there = file.exists()
    try:
        file.open("ab").close()
        if not was_there:
            file.unlink()
    except OSError as error:
        raise ConfigError("out", f"cannot be written: {error.strerror}; name another file", value=out) from None
    return str(file)


ResultFile = Annotated[
    str | None,
    typer.Option(help="write the figures to this .json file, and a page beside it", callback=writable),
]
