"""The last turns that ended: whoever was cut off just then can still be told the rest, event by event."""

from __future__ import annotations

from copy import copy

from chatpager.sessions.turn import LiveTurn

TURN_BYTES = 5 << 10
"""Of one that is kept, besides its events: its request with what was said, its account, its end."""
EVENT_BYTES = 150
TOKEN_BYTES = 110
"""Of one that has a logprob; the token's bytes are where it stands elsewhere, too."""


def size_of(event: object) -> int:
    """Bytes of memory, about."""
    tokens = sum(1 + len(one.top_logprobs) for one in getattr(event, "logprobs", ()))
    return EVENT_BYTES + len(getattr(event, "text", "")) + TOKEN_BYTES * tokens


def size_of_turn(turn: LiveTurn) -> int:
    """The same, of one that is kept to be told again."""
    return TURN_BYTES + sum(map(size_of, turn.stream.events))


class Recent:
    """Keeps a turn for ``seconds``, and less long where all that are kept would have more than ``size`` bytes.
    ``now`` is on any clock in seconds that never goes back."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds, self._room = seconds, size
        self._turns: dict[str, tuple[LiveTurn, float, int]] = {}
        """With the time of its end and its bytes, the oldest first."""

    def put(self, turn: LiveTurn, now: float) -> None:
        self._expire(now)
        turn = copy(turn)  # others may still look at theirs
        turn.forget_prompt()
        size = size_of_turn(turn)
        self._turns[turn.id] = (turn, now, size)
        self._room -= size
        while self._room < 0:
            self.forget(next(iter(self._turns)))

    def get(self, turn_id: str, now: float) -> LiveTurn | None:
        self._expire(now)
        kept = self._turns.get(turn_id)
        return kept[0] if kept else None

    def forget(self, turn_id: str) -> None:
        """Also right of one that is not kept."""
        if kept := self._turns.pop(turn_id, None):
            self._room += kept[2]

    def forget_session(self, tenant: str, session_id: str) -> None:
        of_it = [id for id, (turn, *_) in self._turns.items() if turn.request.conversation == (tenant, session_id)]
        for turn_id in of_it:
            self.forget(turn_id)

    def _expire(self, now: float) -> None:
        while self._turns:
            oldest, (_, ended, _) = next(iter(self._turns.items()))
            if now - ended < self._seconds:
                return
            self.forget(oldest)
