"""Erasing a tenant: all that it said and was answered, in the database, on disk, and what the server remembers by turn.

What caches in memory still hold goes when others need the room, and is found by no other tenant: pieces of text with
their token ids, and KV blocks of no conversation, on the device and in host memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from chatpager.errors import ConversationNotFound, ResponseNotFound
from chatpager.sessions.deleting import Deleting
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.to_the_end import to_the_end
from chatpager.store import Store

PAGE = 100


class Erased(NamedTuple):
    """``turns``: those without a conversation."""

    conversations: int
    turns: int


class Erasing:
    """``end_turns`` ends a tenant's turns that run or are just beginning, and waits for that; ``end`` does so with
    one."""

    def __init__(
        self,
        store: Store,
        deleting: Deleting,
        keeper: Keeper,
        remembered: Remembered,
        end_turns: Callable[[str], Awaitable[None]],
        end: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._deleting = deleting
        self._keeper = keeper
        self._remembered = remembered
        self._end_turns = end_turns
        self._end = end

    async def tenant(self, tenant: str, forget: Callable[[], None]) -> Erased:
        """One conversation after the other, each with its KV blocks; the tenant begins nothing meanwhile, as it is
        paused. Then the caller may ``forget`` what it keeps. It goes on when the caller is cancelled. Raises
        StoreError: what is left can be erased by another call."""
        return await to_the_end(self._tenant(tenant, forget))

    async def _tenant(self, tenant: str, forget: Callable[[], None]) -> Erased:
        conversations = turns = 0
        await self._end_turns(tenant)
        try:
            while page := (await self._store.list_sessions(tenant, limit=PAGE))[0]:
                for session in page:
                    with suppress(ConversationNotFound):  # deleted meanwhile
                        await self._deleting.session(tenant, session.id, lambda: None)
                        conversations += 1
            while alone := await self._store.tenants.turns_alone(tenant, PAGE):
                for turn_id in alone:
                    with suppress(ResponseNotFound):
                        await self._end(tenant, turn_id)
                        await self._deleting.turn(tenant, turn_id)
                        turns += 1
            # A head goes on to later turns under its first turn's name, which a restart forgets.
            self._keeper.closed_all(tenant)
        finally:
            self._remembered.clear()  # others' turns are looked up in the database then
            forget()
        return Erased(conversations, turns)
