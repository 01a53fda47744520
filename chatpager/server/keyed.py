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
from chatpager.sessions.recent import size_of_turn
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
    return kept, sum(map(size_of_turn, kept))


async def text_as_it_is(text: str) -> tuple[str, int]:
    return text, len(text.encode())


@dataclass
class _Begun(Generic[T]):
    asked: str
    """Digest of the request."""
    size: int
    held: asyncio.Future[T]
    ended_at: float = 0.0


class Keyed(Generic[T]):
    """Remembers a key until ``end`` has seen to what it began, and ``seconds`` longer; less long where all that is kept
    takes more than ``size`` bytes: then the tenant that has most loses its oldest. ``end`` gives what to keep, and its
    bytes; None: nothing. ``clock`` is in seconds and never goes back."""

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
        self._ended: dict[str, dict[Name, _Begun[T]]] = {}
        """By tenant, those of each with the oldest first."""
        self._taken: dict[str, int] = {}
        """Bytes, by tenant."""
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(self, name: Name, asked: str, size: int, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the key began, or begins now. It outlives this caller: another may come for it. ``size``: the request's
        bytes.

        Raises:
            IdempotencyConflict: the key came before with another request.
            what ``begin`` does: then the key is nobody's again.
        """
        self._expire()
        begun = self._running.get(name) or self._ended.get(name.tenant, {}).get(name)
        if begun is None:
            beginning = asyncio.get_running_loop().create_task(begin())
            begun = self._running[name] = _Begun(asked, size, beginning)
            beginning.add_done_callback(partial(self._began, name, begun))
        elif begun.asked != asked:
            raise IdempotencyConflict("this key came before with another request")
        return await asyncio.shield(begun.held)

    def forget(self, is_gone: Callable[[Name, T | None], bool]) -> None:
        """What was deleted: who comes with its key begins anew. Of what is just beginning the name alone is known."""
        ended = (one for kept in self._ended.values() for one in kept.items())
        for name, begun in [*ended, *self._running.items()]:
            known = begun.held.done() and not begun.held.cancelled() and not begun.held.exception()
            if is_gone(name, begun.held.result() if known else None):
                self._forget(name)

    def _began(self, name: Name, begun: _Begun[T], beginning: asyncio.Future[T]) -> None:
        failed = beginning.cancelled() or beginning.exception() is not None  # looked at: else the loop complains
        if self._running.get(name) is not begun:
            return  # it was forgotten
        if failed:
            del self._running[name]
        else:
            ending = asyncio.get_running_loop().create_task(self._end(name, begun, beginning.result()))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, name: Name, begun: _Begun[T], held: T) -> None:
        kept = None
        try:
            kept = await self._to_keep(held)
        finally:
            forgotten = self._running.get(name) is not begun
            if not forgotten:
                del self._running[name]
        if kept is None or forgotten:
            return
        self._ended.setdefault(name.tenant, {})[name] = begun
        begun.held = asyncio.get_running_loop().create_future()
        begun.held.set_result(kept[0])
        begun.ended_at = self._clock()
        begun.size += kept[1]
        self._room -= begun.size
        self._taken[name.tenant] = self._taken.get(name.tenant, 0) + begun.size
        while self._room < 0:
            largest = max(self._taken, key=self._taken.__getitem__)
            self._forget(next(iter(self._ended[largest])))
        self._expire_in_time()

    def _expire(self) -> None:
        until = self._clock() - self._seconds
        for kept in [*self._ended.values()]:
            while kept and kept[oldest := next(iter(kept))].ended_at <= until:
                self._forget(oldest)

    def _expire_in_time(self) -> None:
        """What was said is not kept for longer because nobody asks again."""
        if self._timer is None and self._ended:
            oldest = min(next(iter(kept.values())).ended_at for kept in self._ended.values())
            left = max(oldest + self._seconds - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(left, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._expire()
        self._expire_in_time()

    def _forget(self, name: Name) -> None:
        self._running.pop(name, None)
        kept = self._ended.get(name.tenant, {})
        if begun := kept.pop(name, None):
            self._room += begun.size
            self._taken[name.tenant] -= begun.size
            if not kept:
                del self._ended[name.tenant], self._taken[name.tenant]
