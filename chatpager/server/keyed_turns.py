"""What a client's key began on the wires whose answers have no name to be got by: who sends the request again follows
the same turns, from their first event on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from chatpager.errors import IdempotencyConflict
from chatpager.sessions.recent import size_of
from chatpager.sessions.turn import LiveTurn

SECONDS = 600.0
WHOLE = {"completed", "incomplete"}
"""How an answer ended that is told again. What was cut off or failed is not: who sends it again wants an answer."""
SIZE = 64 << 20
"""Bytes, about, of all that is kept of turns that have ended."""


class Name(NamedTuple):
    """A key is one tenant's, on one path."""

    tenant: str
    path: str
    key: str


@dataclass
class _Begun:
    asked: str
    """Digest of the request."""
    size: int
    turns: asyncio.Future[Sequence[LiveTurn]]
    ended_at: float = 0.0


class KeyedTurns:
    """Remembers a key while its turns run and ``seconds`` longer; less long where all that is kept takes more than
    ``size`` bytes. ``clock`` is in seconds and never goes back."""

    def __init__(self, seconds: float = SECONDS, size: int = SIZE, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._room, self._clock = seconds, size, clock
        self._running: dict[Name, _Begun] = {}
        self._ended: dict[Name, _Begun] = {}
        """The oldest first."""
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(
        self, name: Name, asked: str, size: int, begin: Callable[[], Coroutine[Any, Any, Sequence[LiveTurn]]]
    ) -> Sequence[LiveTurn]:
        """The turns that the key began, or that it begins now. They outlive this caller: another may come for them.
        ``size``: the request's bytes.

        Raises:
            IdempotencyConflict: the key came before with another request.
            what ``begin`` does: then the key is nobody's again.
        """
        self._expire()
        begun = self._running.get(name) or self._ended.get(name)
        if begun is None:
            beginning = asyncio.get_running_loop().create_task(begin())
            begun = self._running[name] = _Begun(asked, size, beginning)
            beginning.add_done_callback(partial(self._began, name))
        elif begun.asked != asked:
            raise IdempotencyConflict("this key came before with another request")
        return await asyncio.shield(begun.turns)

    def forget(self, turn_ids: Collection[str]) -> None:
        """Turns that were deleted: who comes with their key begins others."""
        for name, begun in [*self._ended.items(), *self._running.items()]:
            known = begun.turns.done() and not begun.turns.exception()
            if known and any(turn.id in turn_ids for turn in begun.turns.result()):
                self._forget(name)

    def _began(self, name: Name, beginning: asyncio.Future[Sequence[LiveTurn]]) -> None:
        if beginning.cancelled() or beginning.exception() is not None:
            del self._running[name]
        else:
            begun = self._running[name]
            ending = asyncio.get_running_loop().create_task(self._end(name, begun, beginning.result()))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, name: Name, begun: _Begun, turns: Sequence[LiveTurn]) -> None:
        """Keep whole answers, but not what only their running needed."""
        ends = [await turn.stream.end() for turn in turns]
        if self._running.get(name) is not begun:
            return  # it was forgotten
        if any(end.status not in WHOLE for end in ends):
            del self._running[name]
            return
        kept = [copy(turn) for turn in turns]  # their readers still look at theirs
        for turn in kept:
            turn.forget_prompt()
        self._ended[name] = self._running.pop(name)
        begun.turns = asyncio.get_running_loop().create_future()
        begun.turns.set_result(kept)
        begun.ended_at = self._clock()
        begun.size += sum(size_of(event) for turn in kept for event in turn.stream.events)
        self._room -= begun.size
        while self._room < 0:
            self._forget(next(iter(self._ended)))

    def _expire(self) -> None:
        until = self._clock() - self._seconds
        for name in [name for name, begun in self._ended.items() if begun.ended_at <= until]:
            self._forget(name)

    def _forget(self, name: Name) -> None:
        self._running.pop(name, None)
        if begun := self._ended.pop(name, None):
            self._room += begun.size
