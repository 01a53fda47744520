"""What happened in one turn, as a log that any number of readers follow from any place in it.

Events are the turn's own, not a protocol's: each wire folds them into its frames, so every reader of every wire sees
the same thing in the same order, and numbers that a wire derives from the log's places are the same for all.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from chatpager.sessions.answers import Answer, Reasoning, Said, ToolCall, answer_of
from chatpager.sessions.bell import Bell
from chatpager.sessions.receipt import Receipt
from chatpager.store import EndStatus


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The turn is stored: acknowledged."""

    turn_id: str
    created_at: int


class Prefilled(msgspec.Struct, frozen=True, tag="prefilled"):
    """Tokens of the prompt that are computed or were cached so far."""

    done: int
    total: int
    cached: int


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    queue_ms: float
    prefill_ms: float
    ttft_ms: float | None
    decode_tok_s: float | None
    total_ms: float


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The one last event. ``status`` as the store knows it, with "stop" or "length" for how a good end came about."""

    status: EndStatus
    finish: str
    at: int
    """Milliseconds since the epoch."""
    text: str
    calls: tuple[ToolCall, ...] = ()
    calls_before_text: int = 0
    reasoning: tuple[Reasoning, ...] = ()
    output_tokens: int
    reasoning_tokens: int = 0
    receipt: Receipt | None
    cache_write_tokens: int
    timings: Timings
    error_code: str | None = None
    error_message: str | None = None

    @property
    def answer(self) -> Answer:
        return Answer(self.text, self.calls, self.calls_before_text, self.reasoning)

    def facts(self) -> dict[str, Any]:
        """Receipt and timings as the store keeps them and the wires show them."""
        return {"cache": msgspec.to_builtins(self.receipt), "timings": msgspec.to_builtins(self.timings)}


Event = Started | Prefilled | Said | Ended


CATCH_UP = 64
"""Events that one reader is given before others have their turn: a log may be long when it comes."""


class TurnStream:
    """An append-only log with readers. One event loop owns it."""

    __slots__ = ("__weakref__", "_over", "_watching", "events", "stepped_at")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stepped_at = array("d")
        """Of each event when the step ended that it came from, on ``time.monotonic``; 0 where it came from none."""
        self._watching: list[Callable[[], None]] = []
        self._over = False

    @property
    def ended(self) -> Ended | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Ended) else None

    @property
    def answer(self) -> Answer:
        """What readers have been shown of it."""
        return answer_of(self.events)

    @property
    def text(self) -> str:
        return self.answer.text

    def append(self, event: Event, stepped_at: float = 0.0) -> None:
        self.extend((event,), stepped_at)

    def extend(self, events: Sequence[Event], stepped_at: float = 0.0) -> None:
        """Add what came at once, of one step."""
        assert not self._over, f"{events} after the end"
        self.events += events
        for event in events:
            self.stepped_at.append(stepped_at)
            self._over = isinstance(event, Ended)
        for grown in tuple(self._watching):
            grown()

    @contextmanager
    def watched(self, grown: Callable[[], None]) -> Iterator[None]:
        """``grown`` is called whenever there are more events, by whoever adds them: it must be quick, and not raise."""
        self._watching.append(grown)
        try:
            yield
        finally:
            self._watching.remove(grown)

    async def follow(self, since: int = 0) -> AsyncIterator[Event]:
        """The events from place ``since`` on, as they come, to the end."""
        place, bell = since, Bell()
        with self.watched(bell.ring):
            while True:
                while place < len(self.events):
                    yield self.events[place]
                    place += 1
                    if place % CATCH_UP == 0:
                        await asyncio.sleep(0)
                if self.ended is not None:
                    return
                await bell.rung()

    async def end(self) -> Ended:
        """Wait for the last event."""
        async for event in self.follow(len(self.events)):
            if isinstance(event, Ended):
                return event
        assert self.ended is not None
        return self.ended


async def follow_all(streams: Sequence[TurnStream]) -> AsyncIterator[tuple[int, Event]]:
    """The events of several streams, each with its stream's place, as they come, to the end of all."""
    if len(streams) == 1:
        async for event in streams[0].follow():
            yield 0, event
        return
    arrived: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    async def read(place: int, stream: TurnStream) -> None:
        async for event in stream.follow():
            arrived.put_nowait((place, event))

    readers = [asyncio.ensure_future(read(place, stream)) for place, stream in enumerate(streams)]
    left = len(streams)
    try:
        while left:
            place, event = await arrived.get()
            left -= isinstance(event, Ended)
            yield place, event
    finally:
        for reader in readers:
            reader.cancel()
