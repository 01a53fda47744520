"""What a client's key began where the answer has no name to be got by: who sends the request again follows the same
turns, from their first event on, or gets the same object."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from chatpager.errors import IdempotencyConflict
from chatpager.sessions.recent import size_of
from chatpager.sessions.turn import LiveTurn

T = TypeVar("T")
SECONDS = 600.0
WHOLE = {"completed", "incomplete"}
"""How an answer ended that is told again. What was cut off or failed is not: who sends it again wants an answer."""
SIZE = 64 << 20
"""Bytes, about, of all that one ``Keyed`` keeps of what has ended."""


class Name(NamedTuple):
    """A key is one tenant's, on one path."""

    tenant: str
    path: str
    key: str


async def whole_turns(turns: Sequence[LiveTurn]) -> tuple[Sequence[LiveTurn], int] | None:
    """Keep whole answers, but not what only their running needed."""
    ends = [await turn.stream.end() for turn in turns]
    if any(end.status not in WHOLE for end in ends):
        return None
    kept = [copy(turn) for turn in turns]  # their readers still look at theirs
    for turn in kept:
        turn.forget_prompt()
    return kept, sum(size_of(event) for turn in kept for event in turn.stream.events)


async def text_as_it_is(text: str) -> tuple[str, int]:
    return text, len(text)


@dataclass
class _Begun(Generic[T]):
    asked: str
    """Digest of the request."""
    size: int
    held: asyncio.Future[T]
    ended_at: float = 0.0


class Keyed(Generic[T]):
    """Remembers a key until ``end`` has seen to what it began, and ``seconds`` longer; less long where all that is kept
    takes more than ``size`` bytes. ``end`` gives what to keep, and its bytes; None: nothing. ``clock`` is in seconds
    and never goes back."""

    def __init__(
        self,
        end: Callable[[T], Awaitable[tuple[T, int] | None]],
        *,
        seconds: float = SECONDS,
        size: int = SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to_keep = end
        self._seconds, self._room, self._clock = seconds, size, clock
        self._running: dict[Name, _Begun[T]] = {}
        self._ended: dict[Name, _Begun[T]] = {}
        """The oldest first."""
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(self, name: Name, asked: str, size: int, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the key began, or begins now. It outlives this caller: another may come for it. ``size``: the request's
        bytes.

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
        return await asyncio.shield(begun.held)

    def forget(self, is_gone: Callable[[Name, T], bool]) -> None:
        """What was deleted: who comes with its key begins anew."""
        for name, begun in [*self._ended.items(), *self._running.items()]:
            known = begun.held.done() and not begun.held.exception()
            if known and is_gone(name, begun.held.result()):
                self._forget(name)

    def _began(self, name: Name, beginning: asyncio.Future[T]) -> None:
        if beginning.cancelled() or beginning.exception() is not None:
            del self._running[name]
        else:
            begun = self._running[name]
            ending = asyncio.get_running_loop().create_task(self._end(name, begun, beginning.result()))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, name: Name, begun: _Begun[T], held: T) -> None:
        kept = await self._to_keep(held)
        if self._running.get(name) is not begun:
            return  # it was forgotten
        del self._running[name]
        if kept is None:
            return
        self._ended[name] = begun
        begun.held = asyncio.get_running_loop().create_future()
        begun.held.set_result(kept[0])
        begun.ended_at = self._clock()
        begun.size += kept[1]
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
