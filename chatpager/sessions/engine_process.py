"""An engine in a process of its own: neither takes the interpreter from the other, and neither ends with the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from chatpager.engine.facts import EngineFacts
from chatpager.engine.messages import CloseSession, CloseTenant, Command
from chatpager.engine.servant import Answered, Asked, Refused, Stepped
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_frames import (
    Asking,
    Died,
    End,
    Erasing,
    NotStarted,
    Refusal,
    Reply,
    Started,
    Up,
    answer_of,
    error_of,
)
from chatpager.sessions.engine_host import LASTING, EngineHost, Hearers
from chatpager.sessions.engine_link import Link, Program
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.ray_link import RayLink, RayReplica
from chatpager.sessions.restarts import Breaker, Pauses

log = structlog.get_logger(__name__)

LOAD_SECONDS = 3600.0
"""In which a model must be read, however large and from however far; an engine that takes longer hangs."""


class EngineProcess(EngineHost):
    """``program`` makes the engine, and again after it died: then it also loads the model again, and tries until that
    succeeds, with a ``pause`` of so many seconds before each. It may live on another machine."""

    def __init__(
        self,
        program: Program | RayReplica,
        hearers: Hearers,
        breaker: Breaker | None = None,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(hearers, breaker)
        self._program = program
        self._pause, self._pauses = pause, Pauses()
        self._link: Link | RayLink | None = None
        self._serves = False
        self._closing = False
        self._erasing: dict[int, CloseSession | CloseTenant] = {}
        """Not confirmed: the next engine is told where this one dies."""
        self._again: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._serves

    @property
    def step(self) -> int | None:
        return self._link.step if self._link is not None and self._serves else None

    @property
    def pid(self) -> int | None:
        return self._link.pid if self._link is not None else None

    async def start(self) -> EngineFacts:
        ready: asyncio.Future[EngineFacts] = asyncio.get_running_loop().create_future()
        self._ready = ready
        link = self._link = self._program.link(self._hear_frame, self._lost)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await link.open()
                return await ready
        except TimeoutError as error:
            await asyncio.to_thread(link.kill)
            raise EngineStopped(f"the engine was not ready within {LOAD_SECONDS:.0f} seconds and is killed") from error
        finally:
            self._ready = None

    def send(self, command: Command) -> None:
        if not self._serves and not (self.restarting and isinstance(command, LASTING)):
            raise EngineStopped(self.why)
        if isinstance(command, LASTING):
            number = next(self._numbers)
            self._erasing[number] = command
            if self._serves:
                self._write(Erasing(number, command))
        else:
            self._write(command)

    def _hand_over(self, asked: Asked) -> None:
        if not self._serves:
            raise EngineStopped(self.why)
        self._write(asked)

    def _write(self, message: Any) -> None:
        assert self._link is not None
        if isinstance(message, Asked):
            message = Asking(message.number, message.question)  # type: ignore[arg-type]  # whatever is asked here is one
        self._link.send(message)

    async def stop(self) -> None:
        self._closing, self.restarting = True, False
        link = self._link
        if self._serves and link is not None:
            link.send(End())
            await link.gone
        else:
            await self._let_go()
        if (again := self._again) is not None:
            again.cancel()
            await asyncio.wait([again])

    def kill(self) -> bool:
        if self._link is not None:
            self._link.kill()
        return True

    # -- on the loop --------------------------------------------------------------------------------------------------

    def _hear_frame(self, told: Up) -> None:
        match told:
            case Stepped():
                self._hear(told)
            case Reply():
                self._replied(told)
            case Refusal():
                self._hear(Refused(told.number, error_of(told.fault)))
            case Started():
                self._begin(told.facts)
            case NotStarted():
                self._settle(error_of(told.fault))
            case Died():
                self._die(told.told)

    def _begin(self, facts: EngineFacts) -> None:
        self._serves = True
        self._settle(facts)
        if self.restarting:
            for number, command in self._erasing.items():
                self._write(Erasing(number, command))
            self._restarted()

    def _replied(self, told: Reply) -> None:
        if self._erasing.pop(told.number, None) is None and told.number in self._asked:
            question, _ = self._asked[told.number]
            self._hear(Answered(told.number, answer_of(question, told.answer)))

    def _die(self, why: Mapping[str, str], *, counts: bool = True) -> None:
        """What runs is told now; the next one is begun when this one has let everything go."""
        if not self._serves:
            return
        self._serves = False
        if not self._closing:
            self.restarting = self._breaker is not None and (not counts or self._breaker.allows(time.monotonic()))
            log.error("engine.stopped", **why, restarts=self.restarting)
        self._ended()

    def _lost(self, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._settle(EngineStopped(f"the engine's process ended before it was ready: {how}"))
        is_shared = isinstance(self._program, RayReplica)  # it may live, and only the way to it be lost
        self._die({"error": "the engine's process ended", "status": how}, counts=not is_shared)
        if self.restarting and not self._closing and self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            while self.restarting and not self._closing:  # one that has started may be lost before it is looked at here
                await self._pause(self._pauses.before(time.monotonic()))
                try:
                    await self.start()
                except Exception as error:
                    log_mistake("engine.not_restarted", error)
                    await self._let_go()
        finally:
            self._again = None

    async def _let_go(self) -> None:
        """Nothing of what did not start is there when the next one is begun."""
        link = self._link
        if link is not None and link.pid is not None:
            link.close()
            await link.gone
