"""What a database driver's error means, in words: the cause, and never the SQL or its parameters."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import DecodeError
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chatpager.errors import StorageFull, StoreError

_LOCKED = "is locked: another writer held it for too long"
_LOCKED_HERE = "is locked where this writes: another writer, as a long deletion, held that for too long"
AWAY = "is away: the connection could not be made or was lost"
_RULES = "refused a row that breaks its rules"
_BUSY = "is busy: every connection is in use"
_FULL = "is full: the disk or the database has no room left"
_READ_ONLY = "is read-only"

_SQLITE = {
    5: _LOCKED,
    6: _LOCKED,
    8: _READ_ONLY,
    10: "could not be read or written: the disk failed",
    11: "is damaged",
    13: _FULL,
    14: "cannot be opened",
    19: _RULES,
    26: "is not a SQLite database",
}
"""SQLite's primary result codes (https://www.sqlite.org/rescode.html)."""

_POSTGRES = {
    "08": AWAY,
    "23": _RULES,
    "25006": _READ_ONLY,
    "28": "refused the user or the password",
    "3D": "does not exist on the server",
    "40": "gave up a transaction that collided with another",
    "42501": "does not allow this to the user",
    "42P01": "lacks a table",
    "53": "has run out of a resource",
    "53100": _FULL,
    "53300": "is away: the server takes no more connections",
    "55P03": _LOCKED_HERE,
    "57P": AWAY,
    "57014": "took too long",
    "58": "could not be read or written: the disk failed",
}
"""PostgreSQL's error codes and classes; the longest prefix counts (manual, appendix A)."""

_SQLITE_IO_ERROR = 10
_NO_ROOM_TO_SHARE = sqlite3.SQLITE_IOERR_SHMSIZE
"""The file that SQLite's connections share memory in cannot grow: no row was being written, the disk is full."""
_OF_ITSELF = {
    *(_LOCKED, AWAY, _FULL, _READ_ONLY, _BUSY),
    *(_SQLITE[code] for code in (11, 14, 26)),
    *(_POSTGRES[code] for code in ("28", "3D", "42501", "42P01", "53", "53300")),
}
"""What is wrong with a database whatever is written to it."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise drivers' errors as ``StoreError``; everything else passes."""
    try:
        yield
    except Exception as error:
        cause = meaning(error)
        if cause is None:
            raise
        kind = StorageFull if cause == _FULL else StoreError
        raise kind(f"the database {where} {cause}") from error


def meaning(error: BaseException) -> str | None:
    """What ``error`` says of the database, or None where it is no database's."""
    if isinstance(error, PoolTimeout):
        return _BUSY
    if isinstance(error, DecodeError):
        return "holds a row that cannot be read"
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    if code == _NO_ROOM_TO_SHARE:
        return _FULL
    if code is not None:
        return _SQLITE.get(code & 0xFF, "refused the statement")
    state = getattr(original, "sqlstate", None)
    if state is not None:
        found = (_POSTGRES[state[:n]] for n in (5, 3, 2) if state[:n] in _POSTGRES)
        return next(found, "refused the statement")
    if isinstance(error, OSError | InterfaceError) or getattr(error, "connection_invalidated", False):
        return AWAY
    return "refused the statement" if isinstance(error, DBAPIError) else None


def is_locked(error: BaseException) -> bool:
    """Whether ``error`` says that another connection has the database and may soon let go of it."""
    return meaning(error) == _LOCKED


def lost_a_write(error: BaseException | None) -> bool:
    """Whether ``error`` leaves unknown what reached the disk; only reopening the database can tell."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None) or 0
    return code & 0xFF == _SQLITE_IO_ERROR and code != _NO_ROOM_TO_SHARE


def of_itself(error: BaseException | None) -> str:
    """What ``error`` says is wrong with the database whatever is written to it, or nothing."""
    cause = meaning(error) if error is not None else None
    return cause if cause in _OF_ITSELF else ""
