"""The seam to the engine, whatever it lives in: commands and questions go in, what steps brought comes out."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from chatpager.engine.facts import EngineFacts
from chatpager.engine.heads import LeaseEvent
from chatpager.engine.messages import CloseSession, CloseTenant, Command, StepOutput
from chatpager.engine.questions import Question, StatsWanted
from chatpager.engine.servant import Answered, Asked, Refused, Stepped, Told
from chatpager.engine.stats import EngineStats
from chatpager.errors import EngineStopped, InvalidRequest, ReplicaNotFound, shown
from chatpager.sessions.restarts import Breaker

T = TypeVar("T")
STOPPED = "the engine has stopped; restart the server"
STARTS_AGAIN = "the engine has failed and starts again; ask again in a moment"
BEHIND = 1.0
"""Seconds that the figures of all wait for a replica behind the first that answers."""
ONLY = "r0"
"""The replica that there is where there is one engine."""
LASTING = (CloseSession, CloseTenant)
"""Commands that the next engine is told where there is none: what was deleted must not stay on its disk."""


class ReplicaState(msgspec.Struct, frozen=True, kw_only=True):
    """``answers`` run there, with so many tokens left to compute as far as can be told from outside (``work``); None:
    nobody counts them, as there is one engine."""

    id: str
    alive: bool
    restarting: bool
    draining: bool = False
    restarts: int
    process: int | None = None
    """Its id on its own machine; None: the server's own."""
    answers: int | None = None
    work: int | None = None


@dataclass(frozen=True)
class Hearers:
    """Who is told, on the loop that called ``start``: of what a step brought, of a death in whatever way, when another
    engine has taken the place of one that died, which knows of nothing that the last one did, and that none will where
    one was being made."""

    outputs: Callable[[list[StepOutput]], None]
    leases: Callable[[list[LeaseEvent]], None] = lambda events: None
    death: Callable[[], None] = lambda: None
    restart: Callable[[], None] = lambda: None
    gone: Callable[[], None] = lambda: None


class EngineHost(ABC):
    """An engine that dies is made again if the ``breaker`` allows it."""

    def __init__(self, hearers: Hearers, breaker: Breaker | None = None) -> None:
        self._hearers = hearers
        self._breaker = breaker
        self._asked: dict[int, tuple[Question[Any], asyncio.Future[Any]]] = {}
        """Questions on their way; the engine may end before it reads them."""
        self._numbers = itertools.count(1)
        self._ready: asyncio.Future[EngineFacts] | None = None
        """Of the engine that is being made, while somebody waits for it."""
        self.restarts = 0
        self.restarting = False
        self.stepped_at = 0.0
        """When the step ended whose outputs are being told, on ``time.monotonic``; 0: of no step."""

    @property
    @abstractmethod
    def alive(self) -> bool: ...

    @property
    def why(self) -> str:
        """What to say where it is not ``alive``."""
        return STARTS_AGAIN if self.restarting else STOPPED

    @property
    @abstractmethod
    def step(self) -> int | None:
        """Number of the step that is running. Any thread may ask."""

    @property
    def pid(self) -> int | None:
        """Of the engine's process, on its own machine; None: it is this one, or there is none."""
        return None

    @property
    def engines(self) -> Sequence[EngineHost]:
        """Each that can hang, and be killed, by itself."""
        return [self]

    @abstractmethod
    async def start(self) -> EngineFacts:
        """Load the model. Raises ChatpagerError: what that raised."""

    @abstractmethod
    def send(self, command: Command) -> None:
        """Hand over a command; its outcome comes as an output.

        Raises:
            EngineStopped: there is no engine, or it is being made and the command is none of ``LASTING``.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End the engine after the step that is running; turns that are not finished stay so."""

    @abstractmethod
    def kill(self) -> bool:
        """End an engine that hangs, from any thread; False: that takes its process, and this is it."""

    @abstractmethod
    def _hand_over(self, asked: Asked) -> None:
        """Raises EngineStopped."""

    async def stats(self) -> EngineStats:
        """Figures as of the end of the step that is running. Raises EngineStopped."""
        return await self.ask(StatsWanted())

    async def ask(self, question: Question[T]) -> T:
        """What the engine answers at the end of the step that is running.

        Raises:
            EngineStopped: there is no engine.
            Exception: what the question raised, which is its asker's alone.
        """
        number = next(self._numbers)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked[number] = question, answer
        try:
            self._hand_over(Asked(number, question))
            return await answer
        finally:
            del self._asked[number]

    # -- of several engines, or of the one there is -------------------------------------------------------------------

    def replicas(self) -> list[ReplicaState]:
        return [self.state(ONLY)]

    def state(self, name: str, **more: Any) -> ReplicaState:
        return ReplicaState(
            id=name,
            alive=self.alive,
            restarting=self.restarting,
            restarts=self.restarts,
            process=self.pid or None,
            **more,
        )

    async def stats_of_each(self, seconds: float | None, *, behind: float = BEHIND) -> dict[str, EngineStats]:
        """By replica, of those that are there and come to the end of their step within so many ``seconds`` (None: the
        time that the first of them takes), and ``behind`` the first of them by no more: one that hangs neither hides
        what the others are, nor holds it up for long."""
        began = time.monotonic()
        there = zip(self.replicas(), self.engines, strict=True)
        asked = {state.id: asyncio.ensure_future(one.ask(StatsWanted())) for state, one in there if state.alive}
        late = set(asked.values())
        try:
            if late:
                _, late = await asyncio.wait(late, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if late:
                left = math.inf if seconds is None else max(0.0, began + seconds - time.monotonic())
                _, late = await asyncio.wait(late, timeout=min(behind, left))
        finally:
            for one in late:
                one.cancel()
        found: dict[str, EngineStats] = {}
        for name, asking in asked.items():
            if asking not in late:
                with suppress(EngineStopped):
                    found[name] = asking.result()
        return found

    async def ask_one(self, name: str, question: Question[T]) -> T:
        """Raises ReplicaNotFound, and what ``ask`` does."""
        return await self.replica(name).ask(question)

    def place_of(self, owner: str) -> str | None:
        """Where a conversation is, or would be placed if nothing were queued; None: no replica is there."""
        return ONLY if self.alive else None

    def drain(self, name: str, *, drains: bool = True) -> None:
        """Begin no turn there any more, or again; what runs there ends there. Where all are drained, none is.

        Raises:
            ReplicaNotFound.
            InvalidRequest: there is no other.
        """
        self.replica(name)
        raise InvalidRequest("there is one engine: drain the server", param="id")

    def replica(self, name: str) -> EngineHost:
        """Raises ReplicaNotFound."""
        names = [state.id for state in self.replicas()]
        if name not in names:
            raise ReplicaNotFound(f"there is no replica {shown(name)}; there are: {', '.join(names)}")
        return self.engines[names.index(name)]

    # -- on the loop --------------------------------------------------------------------------------------------------

    def _not_made(self) -> None:
        """There will be no further engine."""
        self.restarting = False
        self._hearers.gone()

    def _hear(self, told: Told) -> None:
        match told:
            case Stepped():
                self.stepped_at = told.at
                if told.outputs:
                    self._hearers.outputs(told.outputs)
                self.stepped_at = 0.0
                if told.leases:
                    self._hearers.leases(told.leases)
            case Answered() if waits := self._waits(told.number):
                waits.set_result(told.answer)
            case Refused() if waits := self._waits(told.number):
                waits.set_exception(told.error)

    def _settle(self, made: EngineFacts | Exception) -> None:
        """Tell who waits for the start, unless they have given up."""
        if self._ready is None or self._ready.done():
            return
        if isinstance(made, Exception):
            self._ready.set_exception(made)
        else:
            self._ready.set_result(made)

    def _waits(self, number: int) -> asyncio.Future[Any] | None:
        """None of one who has given up."""
        _, answer = self._asked.get(number, (None, None))
        return answer if answer is not None and not answer.done() else None

    def _ended(self) -> None:
        """An engine's last word: what was asked too late gets no answer."""
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineStopped(self.why))
        self._hearers.outputs([])
        self._hearers.death()

    def _restarted(self) -> None:
        """Behind the last one's ``_ended``: whatever comes from now on is for this one."""
        self.restarts += 1
        self.restarting = False
        self._hearers.restart()
