"""Files that are there whole or not at all, readable for their owner only."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

PART = ".part"
RUN_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What an OSError may say of the process or the machine, and nothing of the file."""


def write_whole(path: Path, data: bytes) -> None:
    """Written beside its place, synced and renamed; makes the folder. Raises OSError, and leaves nothing then."""
    part = path.with_suffix(PART)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
    except OSError:
        unlink(part)
        raise


def write_once(path: Path, data: bytes) -> None:
    """Whole or not at all, and never over one that somebody made meanwhile: theirs is as good. Raises OSError."""
    own = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    write_whole(own, data)
    try:
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()


def unlink(path: Path) -> None:
    """Delete a file, if it is there; one that cannot be deleted is logged."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a file of the KV cache cannot be deleted: %s", error)
