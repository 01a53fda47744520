"""What serves one engine, wherever that lives: carries out what comes in, steps, and tells what each step brought."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from chatpager.engine.engine import Engine
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
from chatpager.engine.questions import Question
from chatpager.errors import ChatpagerError, RequestError

COMMANDS = 1 << 62
"""From here on what is done is numbered where that is a command or a question; steps are numbered from 1."""


class Asked(msgspec.Struct, frozen=True):
    """A question, and the number that its answer will have."""

    number: int
    question: Question[Any]


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """What one step brought, which ended ``at`` this time of ``time.monotonic`` (0: of no step)."""

    outputs: list[StepOutput]
    leases: list[LeaseEvent]
    at: float = 0.0


class Answered(msgspec.Struct, frozen=True):
    number: int
    answer: Any


class Refused(msgspec.Struct, frozen=True):
    number: int
    error: Exception


Handed = Command | Asked
Told = Stepped | Answered | Refused


class Inbox(Protocol):
    def get(self, *, timeout: float | None) -> Handed | None:
        """The next that was handed over; None: the engine shall end. Waits for at most ``timeout`` seconds, and then
        raises queue.Empty."""


class Servant:
    """``mark`` is told the number of every step, command and question as it begins, and 0 when there is nothing to
    compute any more. Until the next begins the one before counts as running: who stops there has stopped at work."""

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        tell: Callable[[Told], object],
        mark: Callable[[int], object] = lambda number: None,
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._tell = tell
        self._mark = mark
        self._steps, self._commands = 0, COMMANDS
        self._held: Stepped | None = None
        """What the last step brought, where the next one is yet to be launched: the loop's work with it would take the
        interpreter from the thread that plans, and while the model runs it is free."""

    def serve(self) -> None:
        """Until the engine shall end. Raises whatever it died of; what its steps brought has been told."""
        self._engine.steps.on_launch = self._tell_held
        try:
            while self._take():
                self._step()
        finally:
            self._mark(0)
            self._tell_held()

    def _step(self) -> None:
        engine = self._engine
        self._steps += 1
        self._mark(self._steps)
        outputs = engine.step(time.monotonic)
        self._tell_held()
        events = engine.leases.take_events()
        if outputs or events:
            self._held = Stepped(outputs, events, time.monotonic())
        if events or not engine.computes:  # saving blocks may go on for long, and launches nothing
            self._tell_held()

    def _tell_held(self) -> None:
        if self._held is not None:
            self._tell(self._held)
            self._held = None

    def _take(self) -> bool:
        """Carry out what has come in; with nothing to compute, wait for more, or for a lease's deadline. False: the
        engine shall end."""
        while True:
            works = self._engine.has_work
            if not works:
                self._mark(0)
            try:
                handed = self._inbox.get(timeout=0.0 if works else self._idle_seconds())
            except queue.Empty:
                return True
            if handed is None:
                return False
            self._mark(self._commands)
            self._commands += 1
            self._tell_held()  # nobody's answer overtakes what came before it
            if isinstance(handed, Asked):
                self._tell(self._answer(handed))
            else:
                self._carry_out(handed)

    def _idle_seconds(self) -> float | None:
        """How long to wait for a command: until a lease ends, and not at all to tell of one."""
        if self._engine.leases.events:
            return 0.0
        deadline = self._engine.leases.next_deadline()
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _answer(self, asked: Asked) -> Answered | Refused:
        try:
            return Answered(asked.number, asked.question.answer(self._engine, time.monotonic()))
        except Exception as error:
            return Refused(asked.number, error)

    def _carry_out(self, command: Command) -> None:
        engine = self._engine
        match command:
            case AddRequest():
                self._add(command)
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

    def _add(self, command: AddRequest) -> None:
        try:
            self._engine.add(command, time.monotonic())
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
            self._tell(Stepped(refusals, []))
