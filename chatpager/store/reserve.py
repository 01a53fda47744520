"""Room on a disk that is otherwise full, for what makes more of it: a deletion is written to SQLite's log first."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MOST = 8 << 20
"""Bytes. As much as is deleted is written, with zeros in its place; what is longer needs that the log has room."""
LEAST = 64 << 10
"""A smaller one would have room for no deletion."""
SHARE = 8
"""Of what is free at most this part is kept, and nothing is taken back before there is so many times as much."""


def can_grow(file: Path, size: int) -> bool:
    """Whether the disk has room for ``file`` to have ``size`` bytes. A log that is carried over to a database whose
    disk fills up meanwhile has only taken the room that was left."""
    return size - file.stat().st_size <= shutil.disk_usage(file.parent).free


class Reserve:
    """A file of zeros beside the database's ``file``, which is deleted when its room is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file.with_name(file.name + "-reserve")

    def keep(self) -> None:
        """Make it, or let it grow, where much more is free; where that cannot be done it stays as it is."""
        with suppress(OSError):
            size = min(MOST, shutil.disk_usage(self._file.parent).free // SHARE)
            has = self._file.stat().st_size if self._file.exists() else 0
            if size < LEAST or size <= has:
                return
            made = os.open(self._file, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(made, 0, size)
            except OSError:
                os.ftruncate(made, has)
                if not has:
                    self._file.unlink()
                raise
            finally:
                os.close(made)

    def give(self) -> bool:
        """Whether there was one. Its room is free now."""
        try:
            self._file.unlink()
        except OSError:
            return False
        return True
