"""The ledger's minutes in the database, so that a restart forgets nothing of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from chatpager.errors import StoreError
from chatpager.server.ledger import MINUTES, Ledger, Sums
from chatpager.store import Store

log = structlog.get_logger(__name__)

KEPT_SECONDS = 7 * 86_400
EVERY_SECONDS = 60.0


def _sums(figures: dict[str, Any]) -> Sums:
    """Raises msgspec.ValidationError."""
    known = Sums.__struct_fields__
    return msgspec.convert({name: figure for name, figure in figures.items() if name in known}, Sums)


class HistoryKeeper:
    """``wall`` is in milliseconds."""

    def __init__(self, ledger: Ledger, store: Store, wall: Callable[[], int]) -> None:
        self._ledger, self._store, self._wall = ledger, store, wall
        self._since = self._minute()
        """The first minute of which the database may not have all."""
        self._turns = 0
        """Those that the database has of this process."""

    def _minute(self) -> int:
        return self._wall() // 60_000 * 60

    async def load(self) -> None:
        """What an earlier process kept. Without it the server works all the same."""
        try:
            rows = await self._store.history.since(self._minute() - 60 * MINUTES)
            kept = {minute: _sums(figures) for minute, figures in rows.items()}
        except (StoreError, msgspec.ValidationError) as error:
            log.warning("history.not_read", reason=str(error))
            return
        self._ledger.load(kept)

    async def keep(self) -> None:
        """Write the minutes in which turns ended since the last time; what could not be written is tried again."""
        now, turns = self._minute(), self._ledger.total.turns
        if turns == self._turns:
            return
        rows = {minute: msgspec.to_builtins(sums) for minute, sums in self._ledger.minutes(self._since)}
        try:
            await self._store.history.keep(rows, oldest=now - KEPT_SECONDS)
        except StoreError as error:
            log.warning("history.not_kept", reason=str(error))
            return
        self._since, self._turns = now, turns

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.keep()
