"""Live rows without a turn: what a crash leaves, or a store that refused the end of a turn until the turn gave up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from chatpager.store import Recovered, Store

log = structlog.get_logger(__name__)


class Orphans:
    """``runs`` tells of a turn's id whether this server has the turn; nobody else has turns in the database, see
    ``Store.claim``."""

    def __init__(self, store: Store, runs: Callable[[str], bool], wall: Callable[[], int]) -> None:
        self._store = store
        self.runs = runs
        self._wall = wall

    async def end(self, tenant: str) -> None:
        """End those of a tenant as ``interrupted``, with what had been shown of their answers. Raises StoreError."""
        live = await self._store.active_turns(tenant)
        orphans = [turn.id for turn in live if not self.runs(turn.id)]
        if orphans:
            log_interrupted(await self._store.recover(self._wall(), orphans))


def log_interrupted(turns: Sequence[Recovered]) -> None:
    for turn in turns:
        log.info("turn.interrupted", turn=turn.turn_id, session=turn.session_id, tokens=turn.tokens)
