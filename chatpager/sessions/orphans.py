"""Live rows without a turn: what a crash leaves, or a store that refused the end of a turn until the turn gave up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from chatpager.sessions.rereading import Rereader
from chatpager.store import Recovered, Store, Turn

log = structlog.get_logger(__name__)


class Orphans:
    """``runs`` tells of a turn's id whether this server has the turn. The store leaves alone what another server has
    that shares the database, and lives."""

    def __init__(self, store: Store, rereader: Rereader, runs: Callable[[str], bool], wall: Callable[[], int]) -> None:
        self._store = store
        self._rereader = rereader
        self._runs = runs
        self._wall = wall

    async def end_all(self) -> None:
        """At the start, before any turn of this server runs: end every one of every tenant's. Raises StoreError."""
        log_interrupted(await self._store.recover(self._wall(), content=self._rereader.content))

    async def end(self, tenant: str) -> None:
        """End those of a tenant as ``interrupted``, with what had been shown of their answers. Raises StoreError."""
        live = await self._store.active_turns(tenant)
        orphans = [turn.id for turn in live if not self._runs(turn.id)]
        if orphans:
            content = self._rereader.content
            log_interrupted(await self._store.recover(self._wall(), orphans, tenant=tenant, content=content))

    async def end_if_any(self, turns: Sequence[Turn]) -> bool:
        """``end``, if one of the ``turns``, of one tenant, is an orphan: then they are to be read again."""
        found = next((t for t in turns if t.status == "in_progress" and not self._runs(t.id)), None)
        if found is not None:
            await self.end(found.tenant)
        return found is not None


def log_interrupted(turns: Sequence[Recovered]) -> None:
    for turn in turns:
        log.info("turn.interrupted", turn=turn.turn_id, session=turn.session_id, tokens=turn.tokens)
