"""Writers of SQLite that come while another one writes share the next transaction, and with it one flush of the disk.

SQLite has one writer and a flush takes its time, 0.15 ms or 3.8 on one and the same machine, idle and busy: a turn's
beginning and its end, each a transaction of its own, were what limited turns a second. PostgreSQL groups its commits
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, NamedTuple, TypeVar

from chatpager.store.visits import Asked, Work

T = TypeVar("T")
MOST = 16
"""Writers of one transaction: a step's tokens, which are written in between, wait no longer for them."""


class _Waiting(NamedTuple):
    asked: Asked
    end: asyncio.Future[Any]


class GroupCommit:
    """``commit`` writes what it is given in one transaction and says of each how it ended, a result or an exception; it
    raises none itself. It is called in the ``queue`` of all writers. Who asks joins a transaction that waits there,
    ahead of others that asked before: who needs an order waits for each."""

    def __init__(self, queue: asyncio.Lock, commit: Callable[[Sequence[Asked]], Awaitable[Sequence[Any]]]) -> None:
        self._queue, self._commit = queue, commit
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def write(self, work: Work[T], before_commit: Callable[[], None]) -> T:
        """What ``work`` returns, committed. Who is cancelled before its turn has written nothing; after that it waits
        for its end. ``work`` may be begun again, where another one of its transaction fails."""
        waiting = _Waiting(Asked(work, before_commit), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run(), context=Context())  # it is nobody's
        try:
            return await asyncio.shield(waiting.end)
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                raise
            await asyncio.wait([waiting.end])
            if not waiting.end.cancelled() and (error := waiting.end.exception()):
                raise error from error.__cause__
            raise

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        taken: list[_Waiting] = []
        try:
            while self._waiting:
                async with self._queue:
                    taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                    ends = await self._commit([one.asked for one in taken]) if taken else ()
                for one, end in zip(taken, ends, strict=True):
                    if isinstance(end, Exception):
                        one.end.set_exception(end)
                    else:
                        one.end.set_result(end)
        except asyncio.CancelledError:  # nobody else would end those that wait
            for one in (*taken, *self._waiting):
                one.end.cancel()
            self._waiting = []
            raise
