"""Turns that a socket's client has asked for and that have not begun: until then it may withdraw them by their lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chatpager.errors import Withdrawn
from chatpager.server.client_events import Lane
from chatpager.server.once import begin_once
from chatpager.server.service import Service, abandon
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest


class Beginnings:
    """Of one socket; a lane has one at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: dict[Lane, asyncio.Task[LiveTurn | str]] = {}
        self._withdrawn: set[Lane] = set()

    async def begin(self, ask: Callable[[], Awaitable[TurnRequest]], lane: Lane) -> LiveTurn | str:
        """As ``begin_once``, with what ``ask`` gives. One that was withdrawn when its caller is cancelled
        leaves no turn behind.

        Raises:
            Withdrawn: it was withdrawn. What ``ask`` and ``begin_once`` do.
        """

        async def asking() -> LiveTurn | str:
            return await begin_once(self._service, await ask(), unwanted=lambda: lane in self._withdrawn)

        self._tasks[lane] = task = asyncio.get_running_loop().create_task(asking())
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller and caller.cancelling():
                begun = task.result() if task.done() and not task.cancelled() and not task.exception() else None
                if isinstance(begun, LiveTurn):  # just before
                    abandon(self._service, begun, told=False)
                raise
            raise Withdrawn("it was cancelled before it had begun", param="stream_id") from None
        finally:
            del self._tasks[lane]
            self._withdrawn.discard(lane)

    def withdraw(self, lane: Lane) -> None:
        """Begin nothing in this lane, if it is not too late."""
        if task := self._tasks.get(lane):
            self._withdrawn.add(lane)
            task.cancel()
