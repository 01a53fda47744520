"""Who reads which turn, and what becomes of a turn when the last of them has left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest


def found_again(request: TurnRequest, *, told: bool) -> bool:
    """Whether somebody can come back to a turn: through its conversation, by its key, or by its id if a reader was
    ``told`` it."""
    known = told or request.session_id is not None or request.client_key is not None
    return known and is_kept(request)


def is_kept(request: TurnRequest) -> bool:
    """Whether anything of a turn may be kept: bare prompts have no way to say that it may not."""
    return request.stored or request.kind == "completion"


class Alone(NamedTuple):
    until: asyncio.TimerHandle
    watch: ExitStack
    """Of its stream: with the turn's end nothing is waited for any more. Closing it is the end of both."""


class Readers:
    """A turn that nobody can find again ends with its last reader; another one goes on for ``grace`` seconds, unless
    its request says which of the two (``on_disconnect``: the latter to its end). ``end`` asks a turn to end now,
    ``attend`` is told of one that goes on whether anybody reads it."""

    def __init__(self, grace: float, end: Callable[[LiveTurn], None], attend: Callable[[LiveTurn, bool], None]) -> None:
        self._grace = grace
        self._end = end
        self._attend = attend
        self._reading: Counter[str] = Counter()
        self.alone: dict[str, Alone] = {}
        """By their ids, the turns that go on without a reader for a while, and when that ends."""

    @contextmanager
    def reading(self, *turns: LiveTurn, told: bool) -> Iterator[None]:
        """Somebody reads these turns, who was ``told`` a name by which they are found again, or was not."""
        for turn in turns:
            self._reading[turn.id] += 1
            self._not_alone(turn.id)
            self._attend(turn, True)
        try:
            yield
        finally:
            for turn in turns:
                self._reading[turn.id] -= 1
                if not self._reading[turn.id]:
                    del self._reading[turn.id]
                    self._alone(turn, told)

    def _alone(self, turn: LiveTurn, told: bool) -> None:
        wish = turn.request.on_disconnect
        if turn.stream.ended is not None:
            return
        if wish != "continue" and (wish == "cancel" or not found_again(turn.request, told=told)):
            self._end(turn)
            return
        self._attend(turn, False)
        if wish == "continue":
            return
        self._not_alone(turn.id)
        watch = ExitStack()
        watch.enter_context(turn.stream.watched(lambda: self._grown(turn)))
        until = asyncio.get_running_loop().call_later(self._grace, self._too_long, turn)
        watch.callback(until.cancel)
        self.alone[turn.id] = Alone(until, watch)

    def _grown(self, turn: LiveTurn) -> None:
        if turn.stream.ended is not None:
            self._not_alone(turn.id)

    def _too_long(self, turn: LiveTurn) -> None:
        self._not_alone(turn.id)
        self._end(turn)

    def _not_alone(self, turn_id: str) -> None:
        if alone := self.alone.pop(turn_id, None):
            alone.watch.close()
