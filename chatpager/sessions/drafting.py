"""Computing what somebody is still writing, while there is nothing else to compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from chatpager.engine.messages import DraftRequest
from chatpager.errors import EngineStopped
from chatpager.sessions.beginning import Beginner
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.heads import owner_of
from chatpager.sessions.live_turns import LiveTurns
from chatpager.sessions.salts import Salts
from chatpager.sessions.turn_request import TurnRequest


class Drafting:
    """A draft's owner has no tenant: nobody is told of it. Its tokens are not counted: the turn's own are.
    ``check_open`` raises TenantPaused."""

    def __init__(
        self,
        beginner: Beginner,
        engine: EngineHost,
        turns: LiveTurns,
        salts: Salts,
        check_open: Callable[[str], None],
    ) -> None:
        self._beginner = beginner
        self._engine = engine
        self._turns = turns
        self._salts = salts
        self._check_open = check_open

    async def draft(self, request: TurnRequest, writer: str, goes_on: Callable[[], bool]) -> None:
        """``writer`` is still writing this turn: compute its prompt as far as it has settled. ``goes_on``: whether that
        is still so once the prompt is there.

        Raises:
            TenantPaused, ConversationNotFound, PreviousResponseNotFound, SessionBusy, InputTooLong, InvalidRequest,
            StoreError, EngineStopped.
        """
        self._check_open(request.tenant)
        if self._turns.of_session(request.tenant, request.session_id):
            return
        ids = list((await self._beginner.settled(request))[: self._beginner.served.max_model_len - 1])
        salt = self._salts.of(request.tenant)
        self._check_open(request.tenant)  # it may have been paused meanwhile
        if goes_on():
            session = owner_of(request.tenant, request.session_id) if request.session_id else ""
            self._engine.send(DraftRequest(owner=_owner(writer), prompt_token_ids=ids, salt=salt, session=session))

    def end(self, writer: str) -> None:
        """``writer`` has sent it, or will not."""
        with suppress(EngineStopped):
            self._engine.send(DraftRequest(owner=_owner(writer)))


def _owner(writer: str) -> str:
    return f"\0{writer}"
