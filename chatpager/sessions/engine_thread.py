"""The one thread that owns the engine.

Commands go in through a queue; what a step brings comes out as one call on the event loop a step, however many
sequences it advanced. Nothing else of the engine is touched from outside.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from chatpager.engine.engine import Engine
from chatpager.engine.facts import EngineFacts, facts_of
from chatpager.engine.grammar_probe import deep_stacks
from chatpager.engine.heads import LeaseEvent
from chatpager.engine.messages import (
    AddRequest,
    AttendRequest,
    CancelRequest,
    CloseSession,
    CloseTenant,
    Command,
    DraftRequest,
    FinishReason,
    ForkSession,
    LeaseRequest,
    PublishPrefix,
    ReleaseLease,
    RewindSession,
    StepOutput,
    WithdrawPrefix,
)
from chatpager.engine.questions import Question, StatsWanted
from chatpager.engine.stats import EngineStats
from chatpager.errors import ChatpagerError, EngineStopped, RequestError
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.restarts import Breaker

T = TypeVar("T")
Outputs = Callable[[list[StepOutput]], None]
STOPPED = "the engine has stopped; restart the server"
LASTING = (CloseSession, CloseTenant)
"""Commands that the next engine is told where there is none: what was deleted must not stay on its disk."""
STARTS_AGAIN = "the engine has failed and starts again; ask again in a moment"


class EngineThread:
    """``build`` makes the engine inside the thread, and again after it died if the ``breaker`` allows it. The rest run
    on the loop that called ``start``: ``on_death`` when an engine ends in whatever way, ``on_restart`` when another has
    taken its place, which knows of nothing that the last one did."""

    def __init__(
        self,
        build: Callable[[], Engine],
        on_outputs: Outputs,
        on_leases: Callable[[list[LeaseEvent]], None] = lambda events: None,
        *,
        on_death: Callable[[], None] = lambda: None,
        on_restart: Callable[[], None] = lambda: None,
        breaker: Breaker | None = None,
    ) -> None:
        self._build = build
        self._on_outputs = on_outputs
        self._on_leases = on_leases
        self._on_death, self._on_restart = on_death, on_restart
        self._breaker = breaker
        self.restarts = 0
        self.restarting = False
        self._commands: queue.SimpleQueue[Command | Callable[[Engine], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="chatpager-engine", daemon=True)
        self._stopped = threading.Event()
        self._over = False
        """There will be no further engine."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[EngineFacts] | None = None
        self._asked: set[asyncio.Future[Any]] = set()
        """Questions on their way to the thread; it may end before it reads them."""
        self.stepped_at = 0.0
        """When the step ended whose outputs are being given to ``on_outputs``, on ``time.monotonic``; 0: of no step."""
        self.step: int | None = None
        """Number of the step that is running."""
        self._steps = 0
        self._held: tuple[list[StepOutput], float] | None = None
        """What the last step brought, and when, where the next one is yet to be launched: the loop's work with it would
        take the interpreter from the thread that plans, and while the model runs it is free."""

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._is_gone

    @property
    def _is_gone(self) -> bool:
        return self._over or self._stopped.is_set()

    @property
    def why(self) -> str:
        """What to say where it is not ``alive``."""
        return STARTS_AGAIN if self.restarting else STOPPED

    async def start(self) -> EngineFacts:
        """Load the model.

        Raises:
            ChatpagerError: what building it raised.
        """
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        with deep_stacks():
            self._thread.start()
        try:
            return await self._ready
        finally:
            self._ready = None

    def send(self, command: Command) -> None:
        """Hand over a command; its outcome comes as an output.

        Raises:
            EngineStopped: the thread has ended, or is making another engine and the command is none of ``LASTING``.
        """
        if self._is_gone and not (self.restarting and isinstance(command, LASTING)):
            raise EngineStopped(self.why)
        self._commands.put(command)

    async def stats(self) -> EngineStats:
        """Figures as of the end of the step that is running. Raises EngineStopped."""
        return await self.ask(StatsWanted())

    async def ask(self, question: Question[T]) -> T:
        """What is answered on the engine's thread, at the end of the step that is running.

        Raises:
            EngineStopped: the thread has ended.
            Exception: what the question raised, which is its asker's alone.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(said: T) -> None:
            if not answer.done():
                answer.set_result(said)

        def refuse(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def ask(engine: Engine) -> None:
            try:
                said = question.answer(engine, time.monotonic())
            except Exception as error:
                loop.call_soon_threadsafe(refuse, error)
            else:
                loop.call_soon_threadsafe(settle, said)

        if self._is_gone:
            raise EngineStopped(self.why)
        self._asked.add(answer)
        self._commands.put(ask)
        try:
            return await answer
        finally:
            self._asked.discard(answer)

    async def stop(self) -> None:
        """End the thread after the step that is running; turns that are not finished stay so."""
        self._commands.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _settle(self, built: EngineFacts | Exception) -> None:
        """Tell who waits for the start, unless they have given up."""
        if self._ready is None or self._ready.done():
            return
        if isinstance(built, Exception):
            self._ready.set_exception(built)
        else:
            self._ready.set_result(built)

    def _stepped(self, outputs: list[StepOutput], at: float) -> None:
        self.stepped_at = at
        self._on_outputs(outputs)
        self.stepped_at = 0.0

    def _restarted(self) -> None:
        """On the loop, behind the last one's ``_ended``: whatever comes from now on is for this one."""
        self.restarts += 1
        self.restarting = False
        self._stopped.clear()
        self._on_restart()

    def _ended(self) -> None:
        """An engine's last word, on the loop: what was asked too late gets no figures."""
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(EngineStopped(self.why))
        self._on_outputs([])
        self._on_death()

    # -- inside the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._loop is not None
        engine: Engine | None
        try:
            engine = self._build()
        except Exception as error:
            self._stopped.set()
            self._tell(self._settle, error)
            return
        self._tell(self._settle, facts_of(engine))
        while engine is not None and self._dies(engine):
            engine = None  # its memory is for the next one
            engine = self._build_again()
            if engine is not None:
                self._tell(self._restarted)
        self._over = True

    def _build_again(self) -> Engine | None:
        """None where it must not be, cannot be, or the thread was to end."""
        lasting = []
        try:
            while (command := self._commands.get_nowait()) is not None:
                if isinstance(command, LASTING):  # the rest was for the one that died: who waits for it is told
                    lasting.append(command)
            self.restarting = False
            return None
        except queue.Empty:
            pass
        if not self.restarting:
            return None
        for command in lasting:
            self._commands.put(command)
        try:
            return self._build()
        except Exception as error:
            log_mistake("engine.not_restarted", error)
            self.restarting = False
            return None

    def _dies(self, engine: Engine) -> bool:
        """Serve until it dies of a mistake, or until the thread shall end: False."""
        died = False
        engine.on_launch = self._tell_held
        try:
            while self._take_commands(engine):
                self.step = self._steps = self._steps + 1
                outputs = engine.step(time.monotonic)
                self.step = None
                self._tell_held()
                if outputs:
                    self._held = outputs, time.monotonic()
                if events := engine.leases.take_events():
                    self._tell_held()
                    self._tell(self._on_leases, events)
                if not engine.computes:  # saving blocks may go on for long, and launches nothing
                    self._tell_held()
        except Exception as error:
            died = True
            self.restarting = self._breaker is not None and self._breaker.allows(time.monotonic())
            log_mistake("engine.stopped", error, restarts=self.restarting)
        finally:
            self.step = None
            self._over = not (died and self.restarting)
            self._stopped.set()
            self._tell_held()
            self._tell(self._ended)
            self._close(engine)
        return died

    def _close(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception as error:
            log_mistake("engine.not_closed", error)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _tell_held(self) -> None:
        if self._held is not None:
            self._tell(self._stepped, *self._held)
            self._held = None

    def _take_commands(self, engine: Engine) -> bool:
        """Carry out what has come in; with nothing to compute, wait for more, or for a lease's deadline. False: the
        thread shall end."""
        while True:
            try:
                command = self._commands.get(block=not engine.has_work, timeout=self._idle_seconds(engine))
            except queue.Empty:
                return True
            if command is None:
                return False
            self._tell_held()  # nobody's answer overtakes what came before it
            if callable(command):
                command(engine)
            else:
                self._carry_out(engine, command)

    def _idle_seconds(self, engine: Engine) -> float | None:
        """How long the thread may wait for a command: until a lease ends, and not at all to tell of one."""
        if engine.leases.events:
            return 0.0
        deadline = engine.leases.next_deadline()
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _carry_out(self, engine: Engine, command: Command) -> None:
        match command:
            case AddRequest():
                self._add(engine, command)
            case CancelRequest():
                engine.cancel(command.request_id, command.index)
            case AttendRequest():
                engine.attend(command.request_id, is_read=command.is_read)
            case DraftRequest():
                with suppress(RequestError):  # the turn will say so
                    engine.draft(command, time.monotonic())
            case LeaseRequest():
                engine.lease(command, time.monotonic())
            case ReleaseLease():
                engine.leases.release(command.owner)
            case ForkSession():
                engine.sessions.fork(command.owner, command.new_owner, command.tokens)
            case RewindSession():
                engine.sessions.rewind(command.owner, command.tokens)
            case CloseSession():
                engine.sessions.close(command.owner)
            case CloseTenant():
                engine.sessions.close_all(command.tenant)
            case PublishPrefix():
                with suppress(RequestError):  # who wants to know of it asks
                    engine.publish(command)
            case WithdrawPrefix():
                engine.sessions.withdraw(command.label)

    def _add(self, engine: Engine, command: AddRequest) -> None:
        try:
            engine.add(command, time.monotonic())
        except ChatpagerError as error:
            code = error.code if isinstance(error, RequestError) else "engine_error"
            refusals = [
                StepOutput(
                    request_id=command.request_id,
                    index=index,
                    finish_reason=FinishReason.ERROR,
                    error_code=code,
                    error_message=str(error),
                )
                for index in range(command.params.n)
            ]
            self._tell(self._on_outputs, refusals)
