"""An engine as a Ray actor. It outlives servers, several may have it, and Ray makes it again where it dies."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from chatpager.engine.engine import Engine
from chatpager.engine.facts import facts_of
from chatpager.engine.grammar_probe import deep_stacks
from chatpager.engine.servant import Servant
from chatpager.errors import ConfigError
from chatpager.sessions.engine_frames import Died, NotStarted, Started, Unframed, fault_of, packed
from chatpager.sessions.engine_fronts import Fronts
from chatpager.sessions.mistakes import log_mistake, told_of

AUTH_MODE = "RAY_AUTH_MODE"
"""Ray's variable: a node whose processes have ``token`` in it hears nobody without one."""
NO_TOKEN = f"a node of the cluster asks for no token; start each with {AUTH_MODE}=token"
OTHER_SETTINGS = (
    "of this name run in the cluster with other settings, or in another version of chatpager; "
    "end those first, or use another --ray-name"
)
LAST_WORDS_SECONDS = 0.5
"""In which servers hear what it died of."""
FRONT_SECONDS = 30.0
"""A server that gives no sign of life for at most so long is gone, and what it asked for ends."""
FRONT_LOOKS = 6
"""In that time."""
GATHER_SECONDS = 0.002
"""What comes in so short a time is one item of a stream: each costs Ray about a millisecond."""


class Pulse(NamedTuple):
    """``step``: of the one that is running; ``process``: its id on its own machine."""

    step: int | None
    process: int


def digest(settings: bytes) -> str:
    return hashlib.sha256(settings).hexdigest()


class RayEngine:
    """``build`` makes the engine of ``settings``, from files of this machine: nothing large goes through Ray.
    ``agreed``: the digest of what all servers that it serves must have alike."""

    def __init__(self, build: Callable[[bytes], Engine], settings: bytes, agreed: str) -> None:
        self._build, self._settings, self._agreed = build, settings, agreed
        self._loop: asyncio.AbstractEventLoop | None = None
        """Of the first call: Ray makes an actor outside of it."""
        self._made: asyncio.Future[Started | NotStarted] | None = None
        self._ended = asyncio.Event()
        self._fronts = Fronts(lambda front: self._on_loop(self._wake, front))
        self._ready: dict[str, asyncio.Event] = {}
        self._read: set[str] = set()
        """Those that read what is told them."""
        self._silent: dict[str, int] = {}
        """How often each was looked for since its last sign of life."""
        self._ageing: asyncio.Task[None] | None = None
        """While there is a server that may fall silent."""
        self._unframed: dict[str, Unframed] = {}
        self._heard: dict[str, int] = {}
        self._early: dict[str, dict[int, bytes]] = {}
        """What came before others that were sent earlier, by number."""
        self._step: int | None = None

    # -- what servers call --------------------------------------------------------------------------------------------

    async def open(self, front: str, agreed: str) -> bytes:
        """One frame: it has started, or why not."""
        if os.environ.get(AUTH_MODE) != "token":
            return packed(NotStarted(fault_of(ConfigError("ray_address", NO_TOKEN))))
        if agreed != self._agreed:
            return packed(NotStarted(fault_of(ConfigError("replicas", OTHER_SETTINGS))))
        made = await asyncio.shield(self._engine())
        if isinstance(made, Started):
            self._fronts.open(front)
            self._ready[front], self._unframed[front] = asyncio.Event(), Unframed()
            self._heard[front], self._early[front] = 0, {}
            self._silent[front] = 0
            if self._ageing is None or self._ageing.done():
                self._ageing = asyncio.get_running_loop().create_task(self._age())
        return packed(made)

    async def _age(self) -> None:
        """Whoever is silent is given up, whether anybody else calls or not. Looks are counted, not seconds: where this
        process was stopped meanwhile it is not the others that were silent."""
        while self._silent:
            await asyncio.sleep(FRONT_SECONDS / FRONT_LOOKS)
            for front in list(self._silent):
                self._silent[front] += 1
                if self._silent[front] >= FRONT_LOOKS:
                    await self.close(front)
                    self._forget(front)

    def _engine(self) -> asyncio.Future[Started | NotStarted]:
        """It is made for the first who asks, and tried again where that failed: what was missing may be there now."""
        if self._made is None or (self._made.done() and isinstance(self._made.result(), NotStarted)):
            self._loop = asyncio.get_running_loop()
            self._made = self._loop.create_future()
            with deep_stacks():
                threading.Thread(target=self._live, args=(self._made,), name="chatpager-engine", daemon=True).start()
        return self._made

    async def put(self, front: str, number: int, frames: bytes) -> None:
        """In the order in which they were sent, which Ray does not promise; of a server that was given up nothing."""
        early = self._early.get(front)
        if early is None:
            return
        early[number] = frames
        while (next_ones := early.pop(self._heard[front] + 1, None)) is not None:
            self._heard[front] += 1
            for body in self._unframed[front].feed(next_ones):
                self._fronts.put(front, body)

    async def steps(self, front: str) -> AsyncIterator[bytes]:
        """Frames as they come, until the server is given up."""
        ready = self._ready.get(front)
        if ready is None:
            return
        self._read.add(front)
        try:
            while True:
                await ready.wait()
                await asyncio.sleep(GATHER_SECONDS)
                ready.clear()
                while frames := self._fronts.take(front):
                    yield frames
                if frames is None:
                    return
        finally:
            self._fronts.close(front)
            self._read.discard(front)
            self._forget(front)

    async def pulse(self, front: str) -> Pulse:
        """A sign of life of each to the other."""
        if front in self._silent:
            self._silent[front] = 0
        return Pulse(self._step, os.getpid())

    async def close(self, front: str) -> None:
        """After the step that is running; what still comes is not taken."""
        self._early.pop(front, None)
        if self._silent.pop(front, None) is not None:
            self._fronts.close(front)
        if front not in self._read:
            self._forget(front)

    async def end(self) -> None:
        """Write what is still to be written. Nobody is served after it."""
        if self._made is not None and isinstance(await asyncio.shield(self._made), Started):
            self._fronts.end()
            await self._ended.wait()

    def _forget(self, front: str) -> None:
        self._silent.pop(front, None)
        self._fronts.forget(front)
        self._wake(front)  # who still reads for it
        for kept in (self._unframed, self._heard, self._early, self._ready):
            kept.pop(front, None)

    def _wake(self, front: str) -> None:
        if ready := self._ready.get(front):
            ready.set()

    # -- the engine's thread ------------------------------------------------------------------------------------------

    def _live(self, made: asyncio.Future[Started | NotStarted]) -> None:
        try:
            engine = self._build(self._settings)
        except Exception as error:
            self._on_loop(made.set_result, NotStarted(fault_of(error)))
            return
        self._on_loop(made.set_result, Started(facts_of(engine)))
        died = False
        try:
            Servant(engine, self._fronts, self._fronts.tell, self._mark).serve()
        except Exception as error:
            died = True
            log_mistake("engine.stopped", error)
            self._fronts.tell_all(Died(told_of(error)))
        try:
            engine.close()
        except Exception as error:
            log_mistake("engine.not_closed", error)
        if died:
            time.sleep(LAST_WORDS_SECONDS)
            os._exit(1)  # Ray makes another process of it
        self._on_loop(self._ended.set)

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *args)

    def _mark(self, number: int) -> None:
        self._step = number or None
