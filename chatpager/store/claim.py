"""One server a database: whoever recovers live turns must be the only one who runs any.

The claim goes with the process, however it ends: on SQLite it is a lock on a file beside the database, on PostgreSQL
an advisory lock of a connection that is kept for nothing else (so a pooler in between must not share connections by
transaction).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.errors import StoreError

_KEY = 0x63686174_70616765
"""Names our claim among the advisory locks of a PostgreSQL database."""


def claim_file(database: Path, shown: str) -> int:
    """Lock the file beside ``database``; the lock lasts until the returned descriptor is closed.

    Raises:
        StoreError: another process has it, or the file cannot be made.
    """
    path = database.with_name(database.name + ".lock")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the database {shown} cannot be claimed: {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise _taken(shown, f"process {owner}" if owner else "another process") from error
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


async def claim_connection(c: AsyncConnection, shown: str) -> None:
    """Lock the PostgreSQL database of ``c``; the lock lasts as long as the connection.

    Raises:
        StoreError: another server has it.
    """
    if not (await c.execute(select(func.pg_try_advisory_lock(_KEY)))).scalar():
        raise _taken(shown, "another server")
    await c.commit()


def _taken(shown: str, owner: str) -> StoreError:
    return StoreError(
        f"the database {shown} is in use by {owner}: stop it, or give this server a data folder of its own"
    )
