"""Conversations that wait for tools keep their prefix for as long as those usually take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chatpager.engine.heads import LeaseEvent, Strength
from chatpager.sessions.answers import ToolCall
from chatpager.sessions.heads import owner_of
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.tool_gaps import ToolGaps


class ToolWaits:
    """``clock`` is the keeper's."""

    def __init__(self, keeper: Keeper, clock: Callable[[], float]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._gaps = ToolGaps()

    def called(self, tenant: str, owner: str, calls: Sequence[ToolCall]) -> None:
        """A turn ended with these calls: its prefix is kept until their results come, which is a guess."""
        for call in calls:
            self._gaps.called(tenant, call.id, call.name, self._clock())
        names = [call.name for call in calls]
        reason = _reason(self._gaps.slowest(tenant, names))
        if owner:
            self._keeper.wait(owner, self._gaps.length(tenant, names), reason)

    def returned(self, tenant: str, session_id: str | None, call_ids: Iterable[str]) -> None:
        """A turn begins that brings these calls' results; it is also what a hint said the conversation waits for."""
        for key in (*call_ids, *([session_id] if session_id else [])):
            self._gaps.returned(tenant, key, self._clock())

    async def hint(self, tenant: str, session_id: str, tool: str | None, eta: float | None) -> LeaseEvent | None:
        """Whoever goes on with the conversation says that it waits for ``tool``, or for ``eta`` seconds, which decide
        where both are said. What was granted; None: nothing of it is on the device.

        Raises:
            EngineStopped
        """
        assert tool or eta, "a hint of nothing"
        seconds = eta or self._gaps.length(tenant, [tool or ""])
        if tool:
            self._gaps.called(tenant, session_id, tool, self._clock())
        return await self._keeper.pin(
            owner_of(tenant, session_id), Strength.SOFT, seconds, reason=_reason(tool) if tool else "told to wait"
        )


def _reason(tool: str) -> str:
    return f"waits for the tool {tool}"
