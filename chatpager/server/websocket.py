"""The Responses WebSocket on aiohttp: a thin skin around ``ResponsesProtocol``.

Each response is followed from its own log, so a reader that is slow holds up nobody but itself, and one that does not
read at all is cut off; its responses go on, and can be read again by their id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from aiohttp import WSMsgType, web

from chatpager.errors import ChatpagerError
from chatpager.server.protocol import SUBPROTOCOL, Cancel, Create, ResponsesProtocol
from chatpager.server.requests import Json, response_request
from chatpager.server.service import SERVICE, TENANT, Service, begin, facts_of, final_response, reader_gone
from chatpager.sessions.stream import Ended

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 20.0
SEND_SECONDS = 30.0
"""A frame that the client does not take for so long ends the connection."""
SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])


async def responses_socket(request: web.Request) -> web.WebSocketResponse:
    service = request.app[SERVICE]
    ws = web.WebSocketResponse(
        protocols=[SUBPROTOCOL],
        heartbeat=HEARTBEAT_SECONDS,
        max_msg_size=service.config.max_message_bytes,
        compress=False,
    )
    await ws.prepare(request)
    request.app[SOCKETS].add(ws)
    service.metrics.sockets.inc()
    try:
        await Connection(ws, request, service).run()
    finally:
        service.metrics.sockets.dec()
        request.app[SOCKETS].discard(ws)
    return ws


class Connection:
    """One socket: a loop that reads, and a task for each response that streams."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, service: Service) -> None:
        self._ws = ws
        self._request = request
        self._service = service
        self._protocol = ResponsesProtocol(extended=ws.ws_protocol == SUBPROTOCOL)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client leaves."""
        try:
            async for message in self._ws:
                if message.type is WSMsgType.TEXT:
                    self._protocol.receive_text(message.data)
                elif message.type is WSMsgType.BINARY:
                    self._protocol.receive_binary()
                await self._act()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _act(self) -> None:
        """Do what the protocol wants done, and send what it wants sent."""
        for event in self._protocol.events_received():
            match event:
                case Create(body):
                    self._spawn(self._respond(body))
                case Cancel(response_id):
                    try:
                        self._service.hub.cancel(TENANT, response_id)
                    except ChatpagerError as error:
                        self._protocol.failed(error)
        for frame in self._protocol.frames_to_send():
            await self._send(frame)

    async def _send(self, frame: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._ws.send_str(frame)
        except TimeoutError:
            log.warning("ws.reader_stalled", request_id=self._request["request_id"])
            if self._request.transport is not None:
                self._request.transport.abort()
        except ConnectionResetError:
            log.debug("ws.reader_left", request_id=self._request["request_id"])

    async def _respond(self, body: Json) -> None:
        try:
            turn = await begin(self._service, response_request(body, self._service.served, TENANT))
        except ChatpagerError as error:
            self._protocol.refused(error)
            await self._act()
            return
        try:
            self._protocol.began(facts_of(turn))
            async for event in turn.stream.follow():
                final = final_response(turn, event) if isinstance(event, Ended) else None
                self._protocol.turn_event(event, final)
                await self._act()
        finally:
            reader_gone(self._service, turn)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("ws.response_failed", exc_info=error, request_id=self._request["request_id"])
            if self._request.transport is not None:
                self._request.transport.abort()
