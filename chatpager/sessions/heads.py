"""Which of the engine's heads a turn moves: every conversation has one, whatever wire it comes by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatpager.store import MessageHash, TurnAlone

if TYPE_CHECKING:
    from chatpager.sessions.turn_request import TurnRequest


def owner_of(tenant: str, session_id: str) -> str:
    """The engine's name for a session's head."""
    return f"{tenant}\0{session_id}"


def names_of(owner: str) -> tuple[str, str]:
    """The tenant, and the conversation or response, that an owner is."""
    tenant, _, name = owner.partition("\0")
    return tenant, name


def shown_to(tenant: str, owner: str) -> str | None:
    """The conversation or response that an owner is to people of ``tenant``; of others' nothing is told."""
    theirs, name = names_of(owner)
    return name if name and theirs == tenant else None


class Heads:
    """Names the heads of conversations without a session: a turn takes over the head of the turn it goes on from, the
    first to do so; another that goes on from there has a head of its own."""

    def __init__(self, entries: int = 1 << 16) -> None:
        self.entries = entries
        self._at: OrderedDict[MessageHash, str] = OrderedDict()

    def of(self, request: TurnRequest, turn_id: str, parent: MessageHash | None) -> str:
        """The head that this turn moves; none ("") of a turn that is not kept."""
        if request.session_id is not None:
            return owner_of(request.tenant, request.session_id)
        if not request.stored:
            return ""
        inherited = self._at.pop(parent, None) if parent is not None else None
        return inherited or owner_of(request.tenant, turn_id)

    def let_go(self, tenant: str, turn_id: str, tip: MessageHash | None) -> str:
        """The turn is deleted, and nothing that is stored ends there or goes on from there: the head of the
        conversation that it was the end of."""
        owner = self._at.pop(tip, None) if tip is not None else None
        return owner or owner_of(tenant, turn_id)

    def know(self, turns: Sequence[TurnAlone]) -> None:
        """Where heads stand by the turns that an earlier server had, in the order in which they began. Of a
        conversation whose first turns were deleted the name is that of the turn before, which is right for one."""
        stored = {turn.id for turn in turns}
        for turn in turns:
            before = turn.previous_turn_id
            first = before if before and before not in stored else turn.id
            inherited = self._at.pop(turn.parent_hash, None) if turn.parent_hash is not None else None
            place = turn.led_to or turn.parent_hash
            if place is not None:
                self._put(place, inherited or owner_of(turn.tenant, first))

    def moved(self, request: TurnRequest, owner: str, tip: MessageHash) -> str:
        """The turn ended, and its conversation now ends with ``tip``. The head that stood there before, which is
        nobody's any more, or "": the same was asked and answered twice."""
        if request.session_id is not None or not owner:
            return ""
        return self._put(tip, owner)

    def stayed(self, request: TurnRequest, owner: str, parent: MessageHash | None) -> None:
        """The turn ended and brought nothing: its head stands where it stood, unless another one does by now."""
        if parent is not None and parent not in self._at:
            self.moved(request, owner, parent)

    def _put(self, tip: MessageHash, owner: str) -> str:
        """The one that stood there before, or ""."""
        displaced = self._at.pop(tip, "")
        self._at[tip] = owner
        if len(self._at) > self.entries:
            self._at.popitem(last=False)
        return displaced
