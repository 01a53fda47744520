"""Who may run: so many turns at once in all, a share of them for one tenant, and of one conversation one after the
other."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from chatpager.errors import InvalidRequest
from chatpager.sessions.fair_places import FairPlaces
from chatpager.sessions.locks import KeyedLocks


class Admission:
    """A place is taken from the first moment of a turn, when it may still have to wait for its conversation, to its
    end. ``each``: places of one tenant (``FairPlaces``). One event loop owns it."""

    def __init__(self, places: int, each: int | None = None) -> None:
        self._most = places if each is None else min(places, each)
        self._limit = "max_queue" if self._most == places else "max_queue_per_tenant"
        self._places = FairPlaces(places, each, called="turns are running or waiting")
        self._locks = KeyedLocks()
        self._empty = asyncio.Event()
        self._empty.set()

    async def enter(self, tenant: str, conversation: Hashable | None, places: int = 1) -> None:
        """Take so many places and wait for the conversation's turn; None is a conversation of its own, and the only one
        for which there may be several.

        Raises:
            InvalidRequest: there are never so many places.
            Overloaded, RateLimited: there is no place, or none for this tenant.
        """
        if places > self._most:
            raise InvalidRequest(f"n is at most {self._most} here ({self._limit})", param="n")
        self._places.take(tenant, places)
        self._empty.clear()
        try:
            await self._locks.acquire(conversation)
        except BaseException:
            self._give_back(tenant, places)
            raise

    def leave(self, tenant: str, conversation: Hashable | None) -> None:
        self._locks.release(conversation)
        self._give_back(tenant)

    def _give_back(self, tenant: str, places: int = 1) -> None:
        self._places.give_back(tenant, places)
        if self._places.taken == 0:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until every place is free."""
        await self._empty.wait()
