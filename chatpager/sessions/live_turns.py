"""The turns of this server: those that are beginning, those that run, and those that ended a moment ago."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatpager.sessions.recent import Recent
from chatpager.sessions.turn import LiveTurn


class LiveTurns(dict[str, LiveTurn]):
    """Those that run, by id: from the moment when their input is stored until they are told of their end. Those that
    ended are ``recent``, on ``clock``. Another tenant's is unknown."""

    def __init__(self, recent: Recent, clock: Callable[[], float]) -> None:
        super().__init__()
        self._recent = recent
        self._clock = clock
        self.beginning: dict[str, asyncio.Task[None]] = {}
        """By id, what stores the rows of turns that do not run yet."""

    def live(self, tenant: str, turn_id: str) -> LiveTurn | None:
        turn = self.get(turn_id)
        return turn if turn and turn.request.tenant == tenant else None

    def told(self, tenant: str, turn_id: str) -> LiveTurn | None:
        """A turn whose events can be told from the first on: one that runs, or has ended a moment ago."""
        turn = self.get(turn_id) or self._recent.get(turn_id, self._clock())
        return turn if turn and turn.request.tenant == tenant else None

    def of_session(self, tenant: str, session_id: str | None) -> LiveTurn | None:
        """None of what has no session."""
        if session_id is None:
            return None
        found = (t for t in self.values() if t.request.session_id == session_id and t.request.tenant == tenant)
        return next(found, None)

    def of_tenant(self, tenant: str) -> list[LiveTurn]:
        return [turn for turn in self.values() if turn.request.tenant == tenant]

    def has(self, turn_id: str) -> bool:
        """Whether it runs or is beginning: whose it is, is not asked."""
        return turn_id in self or turn_id in self.beginning

    async def begun(self, turn_id: str) -> None:
        """Wait for a turn whose row is stored to be live, if it is just beginning."""
        if beginning := self.beginning.get(turn_id):
            await asyncio.wait([beginning])

    async def all_begun(self) -> None:
        """Wait for every turn that is just beginning, whosever it is: a moment each."""
        if self.beginning:
            await asyncio.wait(set(self.beginning.values()))
