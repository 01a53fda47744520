"""Who may run: so many turns at once in all, and of one conversation one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from chatpager.errors import Overloaded
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

    async def enter(self, conversation: Hashable | None) -> None:
        """Take a place and wait for the conversation's turn; None is a conversation of its own.

        Raises:
            Overloaded: there is no place.
        """
        if self._taken >= self._places:
            raise Overloaded(f"{self._places} turns are running or waiting", retry_after=1.0)
        self._taken += 1
        self._empty.clear()
        try:
            await self._locks.acquire(conversation)
        except BaseException:
            self._give_back()
            raise

    def leave(self, conversation: Hashable | None) -> None:
        self._locks.release(conversation)
        self._give_back()

    def _give_back(self) -> None:
        self._taken -= 1
        if self._taken == 0:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until every place is free."""
        await self._empty.wait()
