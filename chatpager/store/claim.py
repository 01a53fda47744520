"""One server a database: whoever recovers live turns must be the only one who runs any. (Several may share one of
PostgreSQL, see ``ownership``, which is another way.)

On SQLite the claim is a lock on a file beside the database and goes with the process, however it ends; whether somebody
deleted the file is looked at before each write. On PostgreSQL it is an advisory lock of a connection that is
kept for nothing else, and goes with that connection, which may end before the process does: the database restarts, or
somebody ends the backend. So it is checked before each write that relies on it (a turn's beginning, recovery), and
taken again if it was lost. Who lost it to another server begins no turn; those that still run have been ended by the
other one, and what they add is not stored. (A pooler in between must not share connections by transaction.)
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from chatpager.errors import StoreError
from chatpager.store import faults

log = logging.getLogger(__name__)

_KEY = 0x63686174_70616765
"""Names our claim among the advisory locks of a PostgreSQL database."""
_HELD = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted"
    " AND classid = CAST(:high AS bigint) AND objid = CAST(:low AS bigint) AND objsubid = 1)"
)
_CLAIMED = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = CAST(:high AS bigint)"
    " AND objid = CAST(:low AS bigint) AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
_NAMES = {"high": _KEY >> 32, "low": _KEY & 0xFFFFFFFF}
SHARE_OR_STOP = "give this one --share-database, too, or stop them"
_ANSWER_SECONDS = 10.0
_RELEASE_SECONDS = 2.0
"""A backend that is ended tells its client before it lets its locks go."""


class FileClaim:
    """A lock on the file beside ``database``, until ``release``.

    Raises:
        StoreError: another process has it, or the file cannot be made.
    """

    def __init__(self, database: Path, shown: str) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._shown = shown
        self._descriptor = _locked(self._path, shown)

    def lost(self) -> str:
        """Why it is no longer ours, or nothing. A file that was deleted, as one that a crash had left, keeps nobody
        out: it is made again, where another server was not quicker."""
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return ""
        except FileNotFoundError:
            pass
        except OSError:  # where it is cannot be looked at for now
            return ""
        try:
            again = _locked(self._path, self._shown)
        except StoreError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                return ""  # it cannot be made for now, and nobody else has it
            return (
                "is in use by another server, which claimed it when this one's lock file was deleted: stop one of the "
                "two, and start the other again"
            )
        os.close(self._descriptor)
        self._descriptor = again
        log.warning("the database %s is claimed again: its lock file was deleted", self._shown)
        return ""

    def release(self) -> None:
        os.close(self._descriptor)


def _locked(path: Path, shown: str) -> int:
    """The descriptor of the file; to close it gives the lock back."""
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


async def is_claimed(c: AsyncConnection) -> bool:
    """Whether a server has the PostgreSQL database for itself. Nothing is locked by asking."""
    return bool((await c.execute(_CLAIMED, _NAMES)).scalar())


class ConnectionClaim:
    """The claim on a PostgreSQL database. Raises ``StoreError`` from every method but ``release``."""

    def __init__(self, engine: AsyncEngine, shown: str) -> None:
        self._engine = engine
        self._shown = shown
        self._connection: AsyncConnection | None = None
        self._released = False
        self._turn = asyncio.Lock()
        """One question at a time on the connection."""

    async def take(self) -> None:
        """Become the owner. Raises StoreError: another server is, or the database is away."""
        if not await self._take(0):
            raise _taken(self._shown, "another server")

    async def check(self) -> None:
        """Make sure of the claim, or take it again on a new connection.

        Raises:
            StoreError: it was lost, and another server has it now, or the database is away.
        """
        # A question that is broken off costs the connection, and so the claim: who stops waiting lets it go on.
        await asyncio.shield(asyncio.ensure_future(self._check()))

    async def release(self) -> None:
        """For good: a check that still waits takes nothing again."""
        self._released = True
        async with self._turn:
            await self._let_go()

    async def _check(self) -> None:
        async with self._turn:
            if self._released:
                raise StoreError(f"the database {self._shown} is closed")
            wait = 0.0
            if self._connection is not None:
                if await self._holds(self._connection):
                    return
                await self._let_go()
                wait = _RELEASE_SECONDS
            if not await self._take(wait):
                raise StoreError(
                    f"the database {self._shown} is in use by another server, which claimed it when this one's "
                    "connection was lost: stop one of the two (if there is only one, the lost connection lingers: try "
                    "again later)"
                )
            log.warning("the database %s is claimed again: the connection that held the claim was lost", self._shown)

    async def _holds(self, c: AsyncConnection) -> bool:
        try:
            with faults.translated(self._shown):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    return bool((await c.execute(_HELD, _NAMES)).scalar())
        except StoreError:
            return False

    async def _take(self, wait: float) -> bool:
        """Whether the lock was to be had within ``wait`` seconds."""
        until = asyncio.get_running_loop().time() + wait
        with faults.translated(self._shown):
            c = await self._engine.connect()
            try:
                await c.execution_options(isolation_level="AUTOCOMMIT")
                while not (await c.execute(select(func.pg_try_advisory_lock(_KEY)))).scalar():
                    if asyncio.get_running_loop().time() >= until:
                        await c.close()
                        return False
                    await asyncio.sleep(0.02)
            except BaseException:
                await c.close()
                raise
        self._connection = c
        return True

    async def _let_go(self) -> None:
        held, self._connection = self._connection, None
        if held is not None:
            # The pool would keep the connection, and with it the lock.
            await held.invalidate()
            await held.close()


def _taken(shown: str, owner: str) -> StoreError:
    return StoreError(
        f"the database {shown} is in use by {owner}: stop it, or give this server a data folder of its own"
    )
