"""Whether anything can be stored, also where nobody has tried for a while: readiness tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from chatpager.errors import StoreError
from chatpager.sessions.mistakes import log_mistake
from chatpager.store import Store

EVERY_SECONDS = 15.0
"""Without a write, before one is tried; and between two tries while they fail."""
IDLE_BYTES, REFUSED_BYTES = 16, 64 << 10
"""Of a try. A log that has room for a few bytes left has none for a message."""

log = structlog.get_logger(__name__)


class StorageWatch:
    """``now`` is in seconds, of whatever clock."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store, self._now = store, now
        self._since, self._begun = now(), store.transactions["write"]
        self._told = ""

    async def look(self) -> None:
        """Try a write, where it is time to; and keep room for deletions."""
        now, begun = self._now(), self._store.transactions["write"]
        if begun != self._begun and not self._store.refuses:
            self._since, self._begun = now, begun
        elif now - self._since >= EVERY_SECONDS:
            await self._try()
            self._since, self._begun = now, self._store.transactions["write"]
        if not self._store.refuses:
            await self._store.keep_reserve()
        self._tell()

    async def _try(self) -> None:
        try:
            await self._store.probe(REFUSED_BYTES if self._store.refuses else IDLE_BYTES)
        except StoreError as error:
            log.debug("storage.not_tried", reason=str(error))

    def _tell(self) -> None:
        refuses = self._store.refuses
        if refuses and refuses != self._told:
            log.error("storage.refuses", reason=f"the database {refuses}")
        elif self._told and not refuses:
            log.info("storage.takes_again")
        self._told = refuses

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS / 3)
            try:
                await self.look()
            except Exception as error:
                log_mistake("storage.watch_failed", error)
