"""One response on its way to one socket.

What a step brings is written from where it is shown, in the same moment, as long as the socket takes it: a task that is
woken for every token costs more than the token's frame. Where there is something to wait for, or to be done at the
response's end, the task goes on.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from chatpager.server import wire
from chatpager.server.client_events import Lane
from chatpager.server.protocol import ResponsesProtocol
from chatpager.server.service import final_response
from chatpager.sessions.bell import Bell
from chatpager.sessions.stream import CATCH_UP, Ended, Event, Prefilled, Started
from chatpager.sessions.turn import LiveTurn

TOLD_TOGETHER = 16
"""Events at the most that are sent in one go."""
OF_THE_TASK = (Started, Prefilled, Ended)
"""Events that come once, or seldom."""


class Outlet(Protocol):
    """Where the frames go. ``act`` does and sends what the protocol wants, and may have to wait. While ``is_free``
    nothing would: then ``write`` sends the protocol's frames at once. ``written`` is told of every event, with the time
    at which the step ended that it is of."""

    def is_free(self) -> bool: ...

    def write(self) -> None: ...

    async def act(self) -> None: ...

    def written(self, stepped_at: float) -> None: ...


class Telling:
    """``again``: the response has been told before, to somebody; what there is of it already is no news, and nobody
    cares how its prompt went. ``prefill_seconds`` between two events about that, at the least."""

    __slots__ = (
        "_bell",
        "_lane",
        "_mistake",
        "_outlet",
        "_past",
        "_place",
        "_prefill_due",
        "_prefill_seconds",
        "_protocol",
        "_stream",
        "_turn",
        "_waits",
    )

    def __init__(
        self,
        turn: LiveTurn,
        lane: Lane,
        protocol: ResponsesProtocol,
        outlet: Outlet,
        *,
        again: bool,
        prefill_seconds: float,
    ) -> None:
        self._turn, self._stream = turn, turn.stream
        self._lane, self._protocol, self._outlet = lane, protocol, outlet
        self._past = len(turn.stream.events) if again else 0
        self._prefill_seconds = prefill_seconds
        self._prefill_due = 0.0
        self._place = 0
        self._bell = Bell()
        self._waits = False
        self._mistake: Exception | None = None

    async def run(self) -> None:
        """To the response's end."""
        with self._stream.watched(self._grown):
            while not (self._place and isinstance(self._stream.events[self._place - 1], Ended)):
                await self._go_on()
                if self._mistake:
                    raise self._mistake

    async def _go_on(self) -> None:
        first, events = self._place, self._stream.events[self._place : self._place + TOLD_TOGETHER]
        if not events:
            self._waits = True
            await self._bell.rung()
            self._waits = False
            return
        for event in events:
            if isinstance(event, Ended) and self._turn.request.params.logprobs is not None:
                self._place += 1
                frames = await asyncio.to_thread(self._last_frames, event)
                self._protocol.turn_ended(frames, self._lane)
            else:
                self._feed(event)
        await self._outlet.act()
        self._tell_times(first)
        if self._place % CATCH_UP == 0:
            await asyncio.sleep(0)

    def _grown(self) -> None:
        """Called where the events are added."""
        events, first = self._stream.events, self._place
        if self._waits and self._outlet.is_free():
            try:
                while self._place < len(events) and not isinstance(event := events[self._place], OF_THE_TASK):
                    self._place += 1
                    self._protocol.turn_event(event, None, self._lane)
                if self._place > first:
                    self._outlet.write()
                    stepped_at = self._stream.stepped_at[first]
                    if stepped_at and self._place == first + 1 and first >= self._past:
                        self._outlet.written(stepped_at)  # one token, most of the time
                    else:
                        self._tell_times(first)
            except Exception as error:
                self._mistake = error
        if self._place < len(events) or self._mistake:
            self._waits = False
            self._bell.ring()

    def _feed(self, event: Event) -> None:
        self._place += 1
        if isinstance(event, Prefilled) and not self._is_due():
            return
        final: wire.Response | None = final_response(self._turn, event) if isinstance(event, Ended) else None
        self._protocol.turn_event(event, final, self._lane)

    def _last_frames(self, ended: Ended) -> list[bytes]:
        return list(self._protocol.last_frames(ended, final_response(self._turn, ended), self._lane))

    def _is_due(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._prefill_due or self._place <= self._past:
            return False
        self._prefill_due = now + self._prefill_seconds
        return True

    def _tell_times(self, first: int) -> None:
        """Of the news among the events from place ``first`` to here."""
        stream = self._stream
        for place in range(first if first > self._past else self._past, self._place):
            stepped_at = stream.stepped_at[place]
            if stepped_at and not isinstance(stream.events[place], Prefilled):  # most of those are not sent
                self._outlet.written(stepped_at)
