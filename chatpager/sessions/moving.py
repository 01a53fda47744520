"""Turns among replicas: each is begun at one, told as that tells, and goes on with another where it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from chatpager.engine.messages import AddRequest, AttendRequest, CancelRequest, FinishReason, StepOutput
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.replica_homes import Homes
from chatpager.sessions.replica_turns import LOST, MOST_MOVES, Part, Parts

log = structlog.get_logger(__name__)


class Moving:
    """``homes`` name the replica for a request; without one it waits until one is back. ``tell`` is given what came,
    once for what was heard at once."""

    def __init__(
        self,
        hosts: Mapping[str, EngineHost],
        homes: Homes,
        tell: Callable[[list[StepOutput]], None],
    ) -> None:
        self._hosts, self._homes, self._tell = hosts, homes, tell
        self.parts = Parts()

    def begin(self, command: AddRequest) -> bool:
        """False: no replica takes it."""
        part = Part.whole(command)
        if self._put(part):
            return True
        self.parts.drop(part)
        return False

    def cancel(self, command: CancelRequest) -> None:
        """Unknown ones and those that have ended are left alone."""
        for part in self.parts.of_request(command.request_id, command.index):
            if part.replica is None:
                ended = part.ended(FinishReason.CANCELLED, command.index)
                if not part.tokens:
                    self.parts.drop(part)
                asyncio.get_running_loop().call_soon(self._tell, ended)
            else:
                index = None if command.index is None else part.indices.index(command.index)
                part.cancelled.update(part.tokens if command.index is None else (command.index,))
                with suppress(EngineStopped):  # ``died`` ends it
                    self._hosts[part.replica].send(CancelRequest(part.name, index))

    def attend(self, command: AttendRequest) -> None:
        for part in self.parts.of_request(command.request_id):
            part.is_read = command.is_read
            self._attend(part)

    def _attend(self, part: Part) -> None:
        if part.replica is not None:
            with suppress(EngineStopped):
                self._hosts[part.replica].send(AttendRequest(part.name, part.is_read))

    def heard(self, replica: str, outputs: list[StepOutput]) -> None:
        """What is not of a part that is there is not told: it was cancelled, or has gone on elsewhere."""
        told = []
        for output in outputs:
            part = self.parts.get(output.request_id)
            if part is None or part.replica != replica or part.indices[output.index] not in part.tokens:
                continue
            told.append(part.take(output))
            if not part.tokens:
                self.parts.drop(part)
        if told:
            self._tell(told)

    def died(self, replica: str) -> None:
        """What it computed goes on behind what was told of it, with others or when one is back."""
        told: list[StepOutput] = []
        lost = 0
        for part in self.parts.at(replica):
            self.parts.drop(part)
            for index in part.cancelled & part.tokens.keys():
                told += part.ended(FinishReason.CANCELLED, index)
            if part.moves >= MOST_MOVES:
                lost += len(part.tokens)
                told += part.ended(FinishReason.ERROR, error=LOST)
                continue
            for moved in part.moved():
                self._put(moved)
        if lost:
            log.error("turns.lost", turns=lost, moves=MOST_MOVES)
        if told:
            self._tell(told)

    def back(self) -> None:
        """A replica can take work: what waits for one goes on."""
        for part in self.parts.at(None):
            self.parts.drop(part)
            for left in part.askable():
                self._put(left)

    def clear(self) -> None:
        """Nothing goes on any more, and who hears of the death ends what runs."""
        for part in list(self.parts.values()):
            self.parts.drop(part)

    def _put(self, part: Part) -> bool:
        """Whether it has a replica now; else it waits."""
        part.replica = None
        self.parts.put(part)
        replica = self._homes.place(part.command, self.parts.work())
        if replica is None:
            return False
        try:
            self._hosts[replica].send(part.asked())
        except EngineStopped:
            return False
        part.replica = replica
        if not part.is_read:
            self._attend(part)
        return True
