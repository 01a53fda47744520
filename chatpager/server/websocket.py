"""The Responses WebSocket on aiohttp: a thin skin around ``ResponsesProtocol``.

Each response is followed from its own log, so a reader that is slow holds up nobody but itself, and one that does not
read at all is cut off; its responses go on, and can be read again by their id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from chatpager.engine.heads import LeaseEvent
from chatpager.errors import ChatpagerError, InvalidAPIKey, RequestTooLarge, StoreError
from chatpager.server import wire
from chatpager.server.access import REQUEST_ID
from chatpager.server.encode_response import SHOWN_AS
from chatpager.server.error_bodies import error_frame
from chatpager.server.input_items import Json
from chatpager.server.keyring import KEYRING, digest_sent, tenant_of
from chatpager.server.once import begin_once
from chatpager.server.protocol import (
    SUBPROTOCOL,
    Cancel,
    Create,
    Draft,
    Lane,
    Prefetch,
    ResponsesProtocol,
    Resume,
)
from chatpager.server.requests import response_request
from chatpager.server.resuming import event_number, events_gone, resumable
from chatpager.server.service import SERVICE, Service, facts_of, final_response, reader_gone
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.stream import Ended, Prefilled
from chatpager.sessions.turn import LiveTurn, TurnRequest

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 20.0
MAX_CONVERSATIONS = 32
"""That one socket keeps alive and hears of; where it speaks in more, the one it left longest ago is left to itself."""
CONNECTIONS: web.AppKey[set[Connection]] = web.AppKey("connections")


class ResponsesSocket(web.WebSocketResponse):
    """Says why before it closes for a frame that it did not read."""

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and not message:
            error = RequestTooLarge(f"a frame is larger than {self._max_msg_size} bytes")
            return await self.refuse(code, error)
        return await super().close(code=code, message=message, drain=drain)

    async def refuse(self, code: int, error: ChatpagerError) -> bool:
        with suppress(ConnectionResetError):
            await self.send_str(wire.encode(error_frame(error)))
        return await self.close(code=code, message=str(error).encode())


async def responses_socket(request: web.Request) -> web.WebSocketResponse:
    service = request.app[SERVICE]
    resume = _resume_of(request)
    ws = ResponsesSocket(
        protocols=[SUBPROTOCOL],
        heartbeat=HEARTBEAT_SECONDS,
        max_msg_size=service.config.max_message_bytes,
        timeout=service.close_seconds,
        compress=False,
    )
    await ws.prepare(request)
    connection = Connection(ws, request, service)
    request.app[CONNECTIONS].add(connection)
    service.metrics.sockets.inc()
    if conversation := request.query.get("conversation"):
        service.hub.prefetcher.soon(tenant_of(request), conversation)
    try:
        await connection.run(resume)
    finally:
        service.metrics.sockets.dec()
        request.app[CONNECTIONS].discard(connection)
    return ws


def _resume_of(request: web.Request) -> tuple[str, int] | None:
    """The response that the client was reading when it lost its last socket, and the number of the last event it got.

    Raises:
        InvalidRequest: the socket is not opened.
    """
    response_id = request.query.get("response_id")
    if not response_id:
        return None
    return response_id, event_number(request.query.get("starting_after", "-1"))


class Connection:
    """One socket: a loop that reads, and a task for each response that streams."""

    def __init__(self, ws: ResponsesSocket, request: web.Request, service: Service) -> None:
        self._ws = ws
        self._tenant = tenant_of(request)
        self._keyring, self._key = request.app[KEYRING], digest_sent(request)
        self._transport = request.transport
        self._request_id = request[REQUEST_ID]
        self._service = service
        self._protocol = ResponsesProtocol(extended=ws.ws_protocol == SUBPROTOCOL)
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._owners: dict[str, None] = {}
        """Heads of the conversations that were spoken in here, the last spoken in last."""
        self._drafts: list[Json | None] = []
        """The one that is being passed on, and what was written since."""
        self._drafts_ended = 0

    async def run(self, resume: tuple[str, int] | None = None) -> None:
        """Serve until the client leaves; first go on with a response that it was reading."""
        beating = asyncio.get_running_loop().create_task(self._beat())
        try:
            if resume:
                self._protocol.resume(*resume)
                await self._act()
            async for message in self._ws:
                if not await self._is_welcome():
                    break
                if message.type is WSMsgType.TEXT:
                    self._protocol.receive_text(message.data)
                elif message.type is WSMsgType.BINARY:
                    self._protocol.receive_binary()
                await self._act()
        finally:
            for owner in self._owners:
                self._service.hub.keeper.unwatch(owner, self._lease_changed)
            for task in (beating, *self._tasks):
                task.cancel()
            self._end_draft()
            await asyncio.gather(beating, *self._tasks, return_exceptions=True)

    async def _is_welcome(self) -> bool:
        """Whether the key that opened the socket still opens it; if not, it is closed. What it began goes on, as when
        its reader leaves."""
        try:
            await self._keyring.caller(self._key)
        except InvalidAPIKey as error:
            await self._ws.refuse(WSCloseCode.POLICY_VIOLATION, error)
            return False
        except StoreError as error:
            # What is asked of the store will say so; a cancel asks nothing of it.
            log.debug("ws.key_not_checked", request_id=self._request_id, reason=str(error))
        return True

    async def _beat(self) -> None:
        """An open connection is a sign of life of its conversations."""
        while True:
            await asyncio.sleep(self._service.beat_seconds)
            if await self._is_welcome():
                self._service.hub.keeper.alive(self._owners, connected=True)

    def _lease_changed(self, event: LeaseEvent) -> None:
        if event.change in ("clipped", "expired", "revoked"):
            self._protocol.lease_changed(lease_frame(event))
            self._spawn(self._act())

    async def close(self) -> None:
        """For the server's end: every turn has ended; let that be told, then say goodbye."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._service.close_seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        await self._ws.close(code=WSCloseCode.SERVICE_RESTART, message=b"the server is restarting")

    async def _act(self) -> None:
        """Do what the protocol wants done, and send what it wants sent.

        The reading loop and the responses' tasks all come here. Frames leave the protocol only under the lock, so
        they go out in the protocol's order however long one of them has to wait for the client.
        """
        for event in self._protocol.events_received():
            match event:
                case Create(body, lane, key):
                    self._spawn(self._respond(body, lane, key))
                case Resume(response_id, after, lane):
                    self._spawn(self._resume(response_id, after, lane))
                case Cancel(response_id, lane):
                    self._cancel(response_id, lane)
                case Prefetch(conversation):
                    self._service.hub.prefetcher.soon(self._tenant, conversation)
                case Draft(body):
                    self._drafts.append(body)
                    if len(self._drafts) == 1:
                        self._spawn(self._pass_drafts_on())
        async with self._sending:
            for frame in self._protocol.frames_to_send():
                await self._send(frame)

    async def _send(self, frame: str) -> None:
        try:
            async with asyncio.timeout(self._service.send_seconds):
                await self._ws.send_str(frame)
        except TimeoutError:
            log.warning("ws.reader_stalled", request_id=self._request_id)
            self._cut()
        except ConnectionResetError:
            log.debug("ws.reader_left", request_id=self._request_id)

    def _cancel(self, response_id: str, lane: Lane) -> None:
        try:
            self._service.hub.cancel(self._tenant, response_id)
        except ChatpagerError as error:
            self._protocol.not_cancelled(response_id, error, lane)

    async def _pass_drafts_on(self) -> None:
        """One after the other, but of those that came meanwhile only the last."""
        while self._drafts:
            body = self._drafts[-1]
            del self._drafts[:-1]
            if body is None:
                self._end_draft()
            else:
                with suppress(ChatpagerError):
                    await self._draft(response_request(body, self._service.served, self._tenant, draft=True))
            if self._drafts[-1] is body:
                self._drafts.clear()

    async def _draft(self, request: TurnRequest) -> None:
        ended = self._drafts_ended
        await self._service.hub.draft(request, self._request_id, lambda: self._drafts_ended == ended)

    def _end_draft(self) -> None:
        self._drafts_ended += 1
        self._service.hub.end_draft(self._request_id)

    async def _respond(self, body: Json, lane: Lane, key: str | None) -> None:
        turn = await self._begin(body, lane, key)
        if turn is None:
            await self._act()
            return
        try:
            await self._follow(turn, lane)
        finally:
            reader_gone(self._service, turn, told=True)
            self._end_draft()

    async def _resume(self, response_id: str, after: int, lane: Lane) -> None:
        told = wire.ResumedFrame(response_id=response_id, recovered=False, starting_after=after, status=None)
        try:
            turn = await resumable(self._service, self._tenant, response_id)
        except Exception as error:
            if not isinstance(error, ChatpagerError):
                log_mistake("ws.resume_failed", error, request_id=self._request_id)
                error = ChatpagerError()
            self._protocol.resumed(told, lane)
            self._protocol.refused(error, lane)
            await self._act()
            return
        status = SHOWN_AS[turn.stream.ended.status if turn.stream.ended else "in_progress"]
        self._protocol.resumed(msgspec.structs.replace(told, recovered=True, status=status), lane)
        await self._follow(turn, lane, after)

    async def _follow(self, turn: LiveTurn, lane: Lane, after: int = -1) -> None:
        self._follow_leases(turn.owner)
        self._protocol.began(facts_of(turn), lane, after)
        clock, due = asyncio.get_running_loop().time, 0.0
        past = len(turn.stream.events) if after >= 0 else 0
        place = 0
        async for event in turn.stream.follow():
            place += 1
            if isinstance(event, Prefilled):
                if clock() < due or place <= past:
                    continue
                due = clock() + self._service.prefill_seconds
            final = final_response(turn, event) if isinstance(event, Ended) else None
            self._protocol.turn_event(event, final, lane)
            await self._act()

    def _follow_leases(self, owner: str) -> None:
        if not owner:
            return
        self._owners.pop(owner, None)
        self._owners[owner] = None
        self._service.hub.keeper.watch(owner, self._lease_changed)
        if len(self._owners) > MAX_CONVERSATIONS:
            oldest = next(iter(self._owners))
            del self._owners[oldest]
            self._service.hub.keeper.unwatch(oldest, self._lease_changed)

    async def _begin(self, body: Json, lane: Lane, key: str | None) -> LiveTurn | None:
        """None when it was refused; a mistake of ours refuses it too, and the connection goes on."""
        try:
            turn = await begin_once(self._service, response_request(body, self._service.served, self._tenant, key))
            if isinstance(turn, str):
                raise events_gone(turn)
            return turn
        except ChatpagerError as error:
            if isinstance(error, StoreError):
                log.error("ws.not_stored", request_id=self._request_id, reason=str(error))
            self._protocol.refused(error, lane)
        except Exception as error:
            log_mistake("ws.create_failed", error, request_id=self._request_id)
            self._protocol.refused(ChatpagerError(), lane)
        return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log_mistake("ws.response_failed", error, request_id=self._request_id)
            self._cut()

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def lease_frame(event: LeaseEvent) -> wire.LeaseFrame:
    return wire.LeaseFrame(
        conversation=event.owner.partition("\0")[2],
        change=event.change,
        strength=event.strength,
        tokens=event.tokens,
        expires_in=round(event.seconds_left, 3),
        reason=event.reason,
    )
