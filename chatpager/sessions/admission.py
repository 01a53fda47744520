"""Who may run: so many turns at once in all, and of one conversation one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from chatpager.errors import InvalidRequest, Overloaded
from chatpager.sessions.locks import KeyedLocks


class Admission:
    """A place is taken from the first moment of a turn, when it may still have to wait for its conversation, to its
    end. One event loop owns it."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._locks = KeyedLocks()
        self._empty = asyncio.Event()
        self._empty.set()

    async def enter(self, conversation: Hashable | None, places: int = 1) -> None:
        """Take so many places and wait for the conversation's turn; None is a conversation of its own, and the only one
        for which there may be several.

        Raises:
            InvalidRequest: there are never so many places.
            Overloaded: there is no place.
        """
        if places > self._places:
            raise InvalidRequest(f"n is at most {self._places} here (max_queue)", param="n")
        if self._taken + places > self._places:
            raise Overloaded(f"{self._taken} of at most {self._places} turns are running or waiting", retry_after=1.0)
        self._taken += places
        self._empty.clear()
        try:
            await self._locks.acquire(conversation)
        except BaseException:
            self._give_back(places)
            raise

    def leave(self, conversation: Hashable | None) -> None:
        self._locks.release(conversation)
        self._give_back()

    def _give_back(self, places: int = 1) -> None:
        self._taken -= places
        if self._taken == 0:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until every place is free."""
        await self._empty.wait()
