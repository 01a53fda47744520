"""What whoever comes back to a response that has ended is told: its events as frames, made once for all who do.

When a server was out of reach for a moment, thousands come back to a few answers at once, and what each of them lacks
is the end of the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import ref

from chatpager.server import wire, wire_events
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.service import facts_of, final_response
from chatpager.sessions.stream import TurnStream
from chatpager.sessions.turn import LiveTurn

MOST_EVENTS = 4096
"""Of a longer response, or one with log probabilities, nothing is made ready: to do that takes milliseconds in which
nobody else has a turn."""
SIZE = 32 << 20
FRAME_BYTES = 48
"""Of memory, besides its content."""


class Replays:
    """Kept for as long as the turn's events are, and less long where all that is kept takes more than ``size`` bytes:
    then what was made first is made again for who comes for it."""

    def __init__(self, size: int = SIZE) -> None:
        self._room = size
        self._frames: dict[ref[TurnStream], Sequence[bytes]] = {}

    def of(self, turn: LiveTurn) -> Sequence[bytes] | None:
        """By their numbers, of a response that has ended; None of one that has not, or has too much to tell."""
        stream, has_logprobs = turn.stream, turn.request.params.logprobs is not None
        if stream.ended is None or len(stream.events) > MOST_EVENTS or has_logprobs:
            return None
        if (kept := self._frames.get(ref(stream))) is not None:
            return kept
        frames = self._frames[ref(stream, self._forget)] = _frames(turn)
        self._room -= _size(frames)
        while self._room < 0:
            self._forget(next(iter(self._frames)))
        return frames

    def _forget(self, stream: ref[TurnStream]) -> None:
        if (frames := self._frames.pop(stream, None)) is not None:
            self._room += _size(frames)


def _size(frames: Sequence[bytes]) -> int:
    return sum(FRAME_BYTES + len(frame) for frame in frames)


def _frames(turn: LiveTurn) -> list[bytes]:
    ended = turn.stream.ended
    final = final_response(turn, ended) if ended else None
    encoder = ResponseEncoder(facts_of(turn))
    told = (frame for event in turn.stream.events for frame in encoder.feed(event, final))
    return [wire.encoded(frame) for frame in told if not isinstance(frame, wire_events.PrefillEvent)]
