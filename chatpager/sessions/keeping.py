"""Keeping conversations' prefixes in the cache: pins that were asked for, and signs of life of those who are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from chatpager.engine.heads import LeaseEvent, Strength
from chatpager.engine.messages import CloseSession, LeaseRequest, ReleaseLease
from chatpager.engine.stats import SessionCache
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_thread import EngineThread

LIFE_SECONDS = 60.0
"""A conversation is kept so long after its last turn or its reader's last sign of life, where memory allows."""
BEAT_SECONDS = 20.0
"""Between two signs of life of an open connection: two may be lost before a lease ends."""

Watcher = Callable[[LeaseEvent], None]


class Keeper:
    def __init__(self, engine: EngineThread) -> None:
        self._engine = engine
        self._pinned: set[str] = set()
        self._watchers: dict[str, set[Watcher]] = {}

    async def pin(self, owner: str, strength: Strength, seconds: float, tokens: int | None = None) -> LeaseEvent | None:
        """Ask for a lease; what was granted. None: nothing of this conversation is in the cache.

        Raises:
            EngineStopped: there is no engine any more.
        """
        request = LeaseRequest(owner=owner, strength=strength, ttl=seconds, tokens=tokens)
        event = await self._engine.ask(lambda engine: engine.lease(request, time.monotonic()))
        if event is not None and strength is Strength.HARD:
            self._pinned.add(owner)
        return event

    def unpin(self, owner: str) -> None:
        """End the conversation's leases. Raises EngineStopped."""
        self._pinned.discard(owner)
        self._engine.send(ReleaseLease(owner))

    def closed(self, owner: str) -> None:
        """The conversation was deleted."""
        self._pinned.discard(owner)
        with suppress(EngineStopped):
            self._engine.send(CloseSession(owner))

    def alive(self, owners: Iterable[str]) -> None:
        """Somebody is there for these conversations: what is pinned stays pinned, the rest is kept softly."""
        with suppress(EngineStopped):
            for owner in filter(None, owners):
                self._engine.send(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=LIFE_SECONDS))
                if owner in self._pinned:
                    self._engine.send(LeaseRequest(owner=owner, strength=Strength.HARD, ttl=LIFE_SECONDS))

    async def cache_of(self, owner: str) -> SessionCache | None:
        """What of a conversation is in the cache now; None: nothing is known of it. Raises EngineStopped."""
        return await self._engine.ask(lambda engine: engine.session_cache(owner, time.monotonic()))

    # -- who wants to know --------------------------------------------------------------------------------------------

    def watch(self, owner: str, watcher: Watcher) -> None:
        self._watchers.setdefault(owner, set()).add(watcher)

    def unwatch(self, owner: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(owner, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(owner, None)

    def tell(self, events: list[LeaseEvent]) -> None:
        """What became of leases, to those who watch."""
        for event in events:
            if event.change in ("revoked", "expired", "released") and event.strength is Strength.HARD:
                self._pinned.discard(event.owner)
            for watcher in list(self._watchers.get(event.owner, ())):
                watcher(event)
