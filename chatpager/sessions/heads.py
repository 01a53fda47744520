"""Which of the engine's heads a turn moves: every conversation has one, whatever wire it comes by."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from chatpager.store import MessageHash

if TYPE_CHECKING:
    from chatpager.sessions.turn import TurnRequest


def owner_of(tenant: str, session_id: str) -> str:
    """The engine's name for a session's head."""
    return f"{tenant}\0{session_id}"


def shown_to(tenant: str, owner: str) -> str | None:
    """The conversation or response that an owner is to people of ``tenant``; of others' nothing is told."""
    theirs, _, name = owner.partition("\0")
    return name if name and theirs == tenant else None


class Heads:
    """Names the heads of conversations without a session: a turn takes over the head of the turn it goes on from, the
    first to do so; another that goes on from there has a head of its own."""

    def __init__(self, entries: int = 1 << 16) -> None:
        self._entries = entries
        self._at: OrderedDict[MessageHash, str] = OrderedDict()
        self._used: set[str] = set()
        """Heads that stand somewhere, or that a running turn moves."""

    def of(self, request: TurnRequest, parent: MessageHash | None) -> str:
        """The head that this turn moves; none ("") of a turn that is not kept."""
        if request.session_id is not None:
            return owner_of(request.tenant, request.session_id)
        if not request.stored:
            return ""
        inherited = self._at.pop(parent, None) if parent is not None else None
        owner = inherited or owner_of(request.tenant, request.id)
        self._used.add(owner)
        return owner

    def let_go(self, tenant: str, turn_id: str, tip: MessageHash | None) -> str:
        """The turn is deleted: the head of the conversation that it was the end of; "" where that goes on."""
        owner = self._at.pop(tip, None) if tip is not None else None
        if owner is None:
            owner = owner_of(tenant, turn_id)
            return "" if owner in self._used else owner
        self._used.discard(owner)
        return owner

    def moved(self, request: TurnRequest, owner: str, tip: MessageHash) -> None:
        """The turn ended, and its conversation now ends with ``tip``."""
        if request.session_id is not None or not owner:
            return
        self._used.discard(self._at.pop(tip, ""))
        self._at[tip] = owner
        if len(self._at) > self._entries:
            self._used.discard(self._at.popitem(last=False)[1])

    def stayed(self, request: TurnRequest, owner: str, parent: MessageHash | None) -> None:
        """The turn ended and brought nothing: its head stands where it stood, unless another one does by now."""
        if request.session_id is None and (parent is None or parent in self._at):
            self._used.discard(owner)
        elif parent is not None:
            self.moved(request, owner, parent)
