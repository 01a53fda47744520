"""The last turns that ended: whoever was cut off just then can still be told the rest, event by event."""

from __future__ import annotations

from copy import copy

from chatpager.sessions.turn import LiveTurn


class Recent:
    """Keeps a turn for ``seconds``, and less long where all that is kept would be more than ``size`` events. ``now`` is
    on any clock in seconds that never goes back."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds, self._room = seconds, size
        self._turns: dict[str, tuple[LiveTurn, float]] = {}
        """With the time of its end, the oldest first."""

    def put(self, turn: LiveTurn, now: float) -> None:
        self._expire(now)
        turn = copy(turn)  # others may still look at theirs
        turn.forget_prompt()
        self._turns[turn.id] = (turn, now)
        self._room -= len(turn.stream.events)
        while self._room < 0:
            self.forget(next(iter(self._turns)))

    def get(self, turn_id: str, now: float) -> LiveTurn | None:
        self._expire(now)
        turn, _ = self._turns.get(turn_id, (None, 0.0))
        return turn

    def forget(self, turn_id: str) -> None:
        """Also right of one that is not kept."""
        turn, _ = self._turns.pop(turn_id, (None, 0.0))
        if turn is not None:
            self._room += len(turn.stream.events)

    def forget_session(self, tenant: str, session_id: str) -> None:
        of_it = [id for id, (turn, _) in self._turns.items() if turn.request.conversation == (tenant, session_id)]
        for turn_id in of_it:
            self.forget(turn_id)

    def _expire(self, now: float) -> None:
        while self._turns:
            oldest, (_, ended) = next(iter(self._turns.items()))
            if now - ended < self._seconds:
                return
            self.forget(oldest)
