"""The engine's side where several servers share it: what each sends and is told, and what all are.

Every server is a front with a name of its own. Requests and questions have names that only one server knows, so the
engine knows them by the front's name and theirs; conversations, leases and prefixes are everybody's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from chatpager.engine.messages import AddRequest, AttendRequest, CancelRequest, Command, DraftRequest, StepOutput
from chatpager.engine.questions import ChangesTaken
from chatpager.engine.servant import Answered, Asked, Handed, Refused, Stepped, Told
from chatpager.sessions.engine_frames import Asking, Down, End, Erasing, Refusal, down, fault_of, packed, reply

BETWEEN = "\0"
"""A front's name has none."""


class Fronts:
    """An ``Inbox`` that several put into. ``ready`` is called, in any thread, where there is something to ``take``."""

    def __init__(self, ready: Callable[[str], object]) -> None:
        self._ready = ready
        self._come: queue.SimpleQueue[tuple[str, bytes | Down] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._going: dict[str, bytearray] = {}
        self._over: set[str] = set()
        self._numbers = 0
        self._asked: dict[int, tuple[str, int]] = {}
        self._erasing: tuple[str, int] | None = None
        """Who waits for it; it is carried out by when the next message is asked for."""
        self._leaving: list[str] = []
        """Who has said that it goes: what the last step brought is told before the next message is asked for."""
        self._running: dict[str, dict[str, int]] = {}
        """Requests by front, and how many of their answers have not ended."""
        self._drafts: dict[str, set[str]] = {}
        """Owners by front, of what is being written there."""

    # -- for who carries it to and fro, in any thread -----------------------------------------------------------------

    def open(self, front: str) -> None:
        with self._lock:
            self._going[front] = bytearray()

    def put(self, front: str, body: bytes) -> None:
        """A frame's."""
        self._come.put((front, body))

    def take(self, front: str) -> bytes | None:
        """The frames that wait for this front; None: there will be no more."""
        with self._lock:
            going = self._going.get(front)
            if not going:
                return None if going is None or front in self._over else b""
            taken = bytes(going)
            going.clear()
        return taken

    def close(self, front: str) -> None:
        """After the step that is running it hears nothing any more, and what it asked for ends."""
        self._come.put((front, End()))

    def end(self) -> None:
        """The engine shall end."""
        self._come.put(None)

    def forget(self, front: str) -> None:
        """Nothing is taken for it any more."""
        with self._lock:
            self._going.pop(front, None)
            self._over.discard(front)

    def tell_all(self, message: Any) -> None:
        with self._lock:
            fronts = list(self._going)
        for front in fronts:
            self._put(front, message)

    # -- for the engine's thread --------------------------------------------------------------------------------------

    def get(self, *, timeout: float | None) -> Handed | None:
        if self._erasing is not None:
            (front, number), self._erasing = self._erasing, None
            self._put(front, reply(number, None))
        while self._leaving:
            self._leave(self._leaving.pop())
        next_one = self._come.get(timeout=timeout) if timeout != 0 else self._come.get_nowait()
        if next_one is None:
            return None
        front, come = next_one
        message = down(come) if isinstance(come, bytes) else come
        match message:
            case End():
                return self._left(front)
            case Asking(number, question):
                self._numbers += 1
                self._asked[self._numbers] = front, number
                if isinstance(question, ChangesTaken):
                    question = ChangesTaken(question.most, front)
                return Asked(self._numbers, question)
            case Erasing(number, command):
                self._erasing = front, number
                return command
            case _:
                return self._named(front, message)

    def _leave(self, front: str) -> None:
        with self._lock:
            if front in self._going:
                self._over.add(front)
        self._ready(front)

    def _left(self, front: str) -> Handed:
        """Its requests are cancelled one by one, and nobody is writing what its clients were."""
        for name in self._running.pop(front, {}):
            self._come.put(("", CancelRequest(name)))
        for owner in self._drafts.pop(front, ()):
            self._come.put(("", DraftRequest(owner=owner)))
        self._leaving.append(front)
        return CancelRequest(front)  # of nothing: something has to be carried out

    def _named(self, front: str, command: Command) -> Command:
        if not front:
            return command
        if isinstance(command, AddRequest | CancelRequest | AttendRequest):
            name = front + BETWEEN + command.request_id
            if isinstance(command, AddRequest):
                self._running.setdefault(front, {})[name] = command.params.n
            return msgspec.structs.replace(command, request_id=name)
        if isinstance(command, DraftRequest):
            owner = command.owner + BETWEEN + front
            drafts = self._drafts.setdefault(front, set())
            (drafts.add if command.prompt_token_ids else drafts.discard)(owner)
            return msgspec.structs.replace(command, owner=owner)
        return command

    def tell(self, told: Told) -> None:
        match told:
            case Stepped():
                self._tell_step(told)
            case Answered():
                front, number = self._asked.pop(told.number)
                self._put(front, reply(number, told.answer))
            case Refused():
                front, number = self._asked.pop(told.number)
                self._put(front, Refusal(number, fault_of(told.error)))

    def _tell_step(self, step: Stepped) -> None:
        """To each front what is its own. When the step ended is told by no clock that others have."""
        by_front: dict[str, list[StepOutput]] = {}
        for output in step.outputs:
            front, _, name = output.request_id.partition(BETWEEN)
            by_front.setdefault(front, []).append(msgspec.structs.replace(output, request_id=name))
            if output.finish_reason:
                self._ended(front, output.request_id)
        with self._lock:
            fronts = list(self._going)
        for front in fronts:
            outputs = by_front.get(front, [])
            if outputs or step.leases:
                self._put(front, Stepped(outputs, step.leases))

    def _ended(self, front: str, name: str) -> None:
        running = self._running.get(front, {})
        if name in running:
            running[name] -= 1
            if not running[name]:
                del running[name]

    def _put(self, front: str, message: Any) -> None:
        with self._lock:
            if (going := self._going.get(front)) is None or front in self._over:
                return
            was_empty = not going
            going += packed(message)
        if was_empty:
            self._ready(front)
