"""One lock a session, made when first wanted and forgotten when free; waiters are served in order."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


class KeyedLocks:
    """A key of None needs no lock. One event loop owns it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}

    async def acquire(self, key: Hashable | None) -> None:
        if key is None:
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave(key)
            raise

    def release(self, key: Hashable | None) -> None:
        if key is not None:
            self._locks[key].release()
            self._leave(key)

    def _leave(self, key: Hashable) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key], self._locks[key]
