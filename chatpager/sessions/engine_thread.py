"""The one thread that owns the engine."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

from chatpager.engine.engine import Engine
from chatpager.engine.facts import EngineFacts, facts_of
from chatpager.engine.grammar_probe import deep_stacks
from chatpager.engine.messages import Command
from chatpager.engine.servant import Asked, Handed, Servant, Told
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_host import LASTING, EngineHost, Hearers
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.restarts import Breaker


class EngineThread(EngineHost):
    """Commands go in through a queue; what a step brings comes out as one call on the event loop a step, however many
    sequences it advanced. ``build`` makes the engine inside the thread, and again after it died."""

    def __init__(self, build: Callable[[], Engine], hearers: Hearers, breaker: Breaker | None = None) -> None:
        super().__init__(hearers, breaker)
        self._build = build
        self._commands: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="chatpager-engine", daemon=True)
        self._stopped = threading.Event()
        self._over = False
        """There will be no further engine."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step: int | None = None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._is_gone

    @property
    def step(self) -> int | None:
        return self._step

    @property
    def _is_gone(self) -> bool:
        return self._over or self._stopped.is_set()

    async def start(self) -> EngineFacts:
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        with deep_stacks():
            self._thread.start()
        try:
            return await self._ready
        finally:
            self._ready = None

    def send(self, command: Command) -> None:
        if self._is_gone and not (self.restarting and isinstance(command, LASTING)):
            raise EngineStopped(self.why)
        self._commands.put(command)

    def _hand_over(self, asked: Asked) -> None:
        if self._is_gone:
            raise EngineStopped(self.why)
        self._commands.put(asked)

    async def stop(self) -> None:
        self._commands.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def kill(self) -> bool:
        return False

    def _restarted(self) -> None:
        self._stopped.clear()
        super()._restarted()

    # -- inside the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        engine: Engine | None
        try:
            engine = self._build()
        except Exception as error:
            self._stopped.set()
            self._on_loop(self._settle, error)
            return
        self._on_loop(self._settle, facts_of(engine))
        while engine is not None and self._dies(engine):
            engine = None  # its memory is for the next one
            engine = self._build_again()
            if engine is not None:
                self._on_loop(self._restarted)
        self._over = True

    def _build_again(self) -> Engine | None:
        """None where it must not be, cannot be, or the thread was to end."""
        lasting = []
        while not self._commands.empty():  # nobody else takes from it
            command = self._commands.get()
            if command is None:
                self.restarting = False
            elif isinstance(command, LASTING):  # the rest was for the one that died: who waits for it is told
                lasting.append(command)
        if not self.restarting:
            return None
        for command in lasting:
            self._commands.put(command)
        try:
            return self._build()
        except Exception as error:
            log_mistake("engine.not_restarted", error)
            self.restarting = False
            self._over = True
            self._on_loop(self._not_made)
            return None

    def _dies(self, engine: Engine) -> bool:
        """Serve until it dies of a mistake, or until the thread shall end: False."""
        died = False
        try:
            Servant(engine, self._commands, self._tell, self._mark).serve()
        except Exception as error:
            died = True
            self.restarting = self._breaker is not None and self._breaker.allows(time.monotonic())
            log_mistake("engine.stopped", error, restarts=self.restarting)
        finally:
            self._over = not (died and self.restarting)
            self._stopped.set()
            self._on_loop(self._ended)
            self._close(engine)
        return died

    def _close(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception as error:
            log_mistake("engine.not_closed", error)

    def _mark(self, number: int) -> None:
        self._step = number or None

    def _tell(self, told: Told) -> None:
        self._on_loop(self._hear, told)

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
