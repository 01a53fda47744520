"""Deleting conversations and turns, also those that run or are just beginning."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from chatpager.errors import ConversationInUse, ResponseNotFound
from chatpager.sessions.heads import Heads, owner_of
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.recent import Recent
from chatpager.sessions.to_the_end import to_the_end
from chatpager.sessions.turn import LiveTurn
from chatpager.store import Store


class Deleting:
    """``live_of_session`` finds a tenant's running turn, ``end`` ends a turn and waits for that."""

    def __init__(
        self,
        store: Store,
        heads: Heads,
        recent: Recent,
        keeper: Keeper,
        live_of_session: Callable[[str, str], LiveTurn | None],
        end: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._heads = heads
        self._recent = recent
        self._keeper = keeper
        self._live_of_session = live_of_session
        self._end = end

    async def session(
        self, tenant: str, session_id: str, forget: Callable[[], None], unused_since: int | None = None
    ) -> None:
        """Delete a session and all its turns: one that runs is ended first; what began meanwhile, or has no owner, is
        ended and deleted right after. Then the caller may ``forget`` what it keeps of it, also where it was cancelled
        or a turn could not be deleted. With ``unused_since`` (milliseconds since the epoch) only where no turn of it
        began after that. Raises what ``Store.delete_session`` does."""
        await to_the_end(self._session(tenant, session_id, forget, unused_since))

    async def _session(
        self, tenant: str, session_id: str, forget: Callable[[], None], unused_since: int | None
    ) -> None:
        if turn := self._live_of_session(tenant, session_id):
            if unused_since is not None and turn.created_at > unused_since:
                raise ConversationInUse
            await self._end(tenant, turn.id)
        left = (await self._store.delete_session(tenant, session_id, unused_since)).live_turns
        try:
            for turn_id in left:
                await self._end(tenant, turn_id)
                with suppress(ResponseNotFound):
                    await self._store.delete_turn(tenant, turn_id)
        finally:
            self._recent.forget_session(tenant, session_id)
            self._keeper.closed(owner_of(tenant, session_id))
            forget()

    async def turn(self, tenant: str, turn_id: str) -> None:
        """Delete what is stored of a turn that has ended; where it was the end of a conversation without a session,
        that is nobody's from now on. Raises what ``Store.turn`` and ``Store.delete_turn`` do."""
        await to_the_end(self._turn(tenant, turn_id))

    async def _turn(self, tenant: str, turn_id: str) -> None:
        turn = await self._store.turn(tenant, turn_id)
        await self._store.delete_turn(tenant, turn_id)
        self._recent.forget(turn_id)
        if turn.session_id is None and not await self._store.has_message(tenant, turn.led_to):
            self._keeper.closed(self._heads.let_go(tenant, turn_id, turn.led_to))
