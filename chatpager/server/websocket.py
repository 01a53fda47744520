"""The Responses WebSocket on aiohttp: a thin skin around ``ResponsesProtocol``.

Each response is followed from its own log, so a reader that is slow holds up nobody but itself, and one that does not
read at all is cut off; its responses go on, and can be read again by their id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing, closing, suppress
from functools import partial
from typing import Any

import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from chatpager.engine.heads import LeaseEvent
from chatpager.errors import (
    ChatpagerError,
    ConnectionTooOld,
    ConversationNotFound,
    InvalidAPIKey,
    Overloaded,
    RateLimited,
    StoreError,
)
from chatpager.server import connections, wire_events
from chatpager.server.arriving import ARRIVING, Arriving, FrameCount
from chatpager.server.beginnings import Beginnings
from chatpager.server.client_events import Cancel, ClientEvent, Create, Draft, Lane, LetGo, Prefetch, Resume, Withdraw
from chatpager.server.drafting import Drafts
from chatpager.server.encode_response import SHOWN_AS
from chatpager.server.error_answers import REQUEST_ID
from chatpager.server.input_items import Json
from chatpager.server.keyring import tenant_of
from chatpager.server.logins import SENDER, caller_of
from chatpager.server.opening import Opening, conversation_known, opening
from chatpager.server.protocol import DRAFT, PREFETCH, SUBPROTOCOL, ResponsesProtocol, frame_of
from chatpager.server.reading import BIG, made_of
from chatpager.server.replaying import Replays
from chatpager.server.requests import response_request
from chatpager.server.responses_socket import ResponsesSocket
from chatpager.server.resuming import at_hand, resumable
from chatpager.server.retelling import retold
from chatpager.server.service import SERVICE, Service, facts_of
from chatpager.server.telling import Telling
from chatpager.sessions.fair_places import FairPlaces
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.turn import LiveTurn

log = structlog.get_logger(__name__)

MAX_CONVERSATIONS = 32
"""That one socket keeps alive and hears of; where it speaks in more, the one it left longest ago is left to itself."""
CONNECTIONS: web.AppKey[set[Connection]] = web.AppKey("connections")
REPLAYS = web.AppKey("replays", Replays)
PLACES = web.AppKey("places", FairPlaces)
"""For WebSockets."""


async def responses_socket(request: web.Request) -> web.WebSocketResponse:
    """Raises Overloaded, RateLimited, InvalidRequest, ConversationNotFound: no socket is opened."""
    asked = opening(request.query)
    tenant, places = tenant_of(request), request.app[PLACES]
    try:
        places.take(tenant)
    except (Overloaded, RateLimited) as error:
        request.app[SERVICE].metrics.refused(error)
        raise
    try:
        await conversation_known(request, asked)
        return await _opened_socket(request, asked)
    finally:
        places.give_back(tenant)


async def _opened_socket(request: web.Request, asked: Opening) -> web.WebSocketResponse:
    service = request.app[SERVICE]
    ws = ResponsesSocket(
        max_message_bytes=service.config.max_message_bytes,
        close_seconds=service.close_seconds,
        send_seconds=service.send_seconds,
        frames_per_second=service.frames_per_second,
    )
    frames = FrameCount(Arriving(request.app[ARRIVING], tenant_of(request)))
    if isinstance(request.protocol, connections.Connection):
        request.protocol.frames = frames
    with closing(frames):
        await ws.prepare(request)
        connection = Connection(ws, request, service, frames)
        request.app[CONNECTIONS].add(connection)
        service.metrics.sockets.inc()
        try:
            if asked.conversation:
                service.hub.prefetcher.soon(tenant_of(request), asked.conversation)
            await connection.run(asked.resume)
        finally:
            service.metrics.sockets.dec()
            request.app[CONNECTIONS].discard(connection)
    return ws


class Connection:
    """One socket: a loop that reads, and a task for each response that streams."""

    def __init__(self, ws: ResponsesSocket, request: web.Request, service: Service, frames: FrameCount) -> None:
        self._ws, self._frames = ws, frames
        self._tenant = tenant_of(request)
        self._app, self.sender = request.app, request[SENDER]
        self._turned_out = False
        self._request_id = request[REQUEST_ID]
        self._service = service
        self.written = service.metrics.sending
        self._protocol = ResponsesProtocol(extended=ws.ws_protocol == SUBPROTOCOL)
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beginnings = Beginnings(service)
        self._owners: dict[str, None] = {}
        """Heads of the conversations that were spoken in here, the last spoken in last."""
        self._drafts = Drafts(service, self._tenant, self._request_id)

    async def run(self, resume: tuple[str, int] | None = None) -> None:
        """Serve until the client leaves; first go on with a response that it was reading."""
        loop, age = asyncio.get_running_loop(), self._service.config.ws_max_age
        self._next_beat = loop.call_later(self._service.beat_seconds, self._beat)
        grows_old = loop.call_later(age, lambda: self._spawn(self._grow_old(age))) if age else None
        try:
            if resume:
                self._protocol.resume(*resume)
                await self.act()
            self._frames.refuse = self._no_room
            if self._frames.refused:
                self._no_room(self._frames.refused)
            async with aclosing(self._ws.frames(self._frames.dealt_with)) as frames:
                async for message in frames:
                    if not await self._is_welcome():
                        break
                    await self._receive(message)
                    del message  # while the next is waited for
                    await self.act()
        finally:
            self._ws.let_go()
            if self._ws.close_code == WSCloseCode.ABNORMAL_CLOSURE:
                self._ws.cut()  # aiohttp waits for what is left to be taken, and nobody is there
            for owner in self._owners:
                self._service.hub.keeper.unwatch(owner, self._lease_changed)
            self._next_beat.cancel()
            if grows_old:
                grows_old.cancel()
            self._drafts.end()
            if self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _receive(self, message: WSMessage) -> None:
        if message.type is WSMsgType.TEXT:
            long = len(message.data) > BIG
            read = await asyncio.to_thread(frame_of, message.data) if long else frame_of(message.data)
            self._protocol.receive_frame(read, self._frames.keep)
        elif message.type is WSMsgType.BINARY:
            self._protocol.receive_binary()

    async def _is_welcome(self, *, used: bool = True) -> bool:
        """Whether the key or the login that opened the socket still opens it; if not, it is closed. What it began goes
        on, as when its reader leaves."""
        try:
            await caller_of(self._app, self.sender, used=used)
        except InvalidAPIKey as error:
            await self._refuse(error)
            return False
        except StoreError as error:
            # What is asked of the store will say so; a cancel asks nothing of it.
            log.debug("ws.key_not_checked", request_id=self._request_id, reason=str(error))
        return True

    def turn_out(self, error: InvalidAPIKey) -> None:
        """Tell it once, and close; whoever does not take that is cut off."""
        if not self._turned_out:
            self._turned_out = True
            self._spawn(self._refuse(error))

    def _no_room(self, error: Overloaded | RateLimited) -> None:
        """For what it is being sent. Its responses go on."""
        self._service.metrics.refused(error)
        self._spawn(self._refuse(error, WSCloseCode.TRY_AGAIN_LATER))

    async def _refuse(self, error: ChatpagerError, code: int = WSCloseCode.POLICY_VIOLATION) -> None:
        try:
            async with asyncio.timeout(self._service.send_seconds):
                await self._ws.refuse(code, error)
        except TimeoutError:
            self._ws.cut()

    def _beat(self) -> None:
        """An open connection is a sign of life of its conversations. A task that sleeps until then would be the half of
        an idle socket's memory."""
        self._next_beat = asyncio.get_running_loop().call_later(self._service.beat_seconds, self._beat)
        self._service.hub.keeper.alive(self._owners, connected=True)

    async def _grow_old(self, age: float) -> None:
        """The socket has been open for as long as one may be; its responses go on as when it is lost."""
        async with self._sending:
            error = ConnectionTooOld(f"a socket stays open for {age:g} s; connect again, and go on where you were")
            await self._ws.refuse(WSCloseCode.GOING_AWAY, error)

    def _lease_changed(self, event: LeaseEvent) -> None:
        if event.change in ("clipped", "expired", "revoked"):
            self._protocol.lease_changed(lease_frame(event))
            self._spawn(self.act())

    async def close(self) -> None:
        """For the server's end: every turn has ended; let that be told, then say goodbye."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._service.close_seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        await self._ws.close(code=WSCloseCode.SERVICE_RESTART, message=b"the server is restarting")

    async def act(self) -> None:
        """Do what the protocol wants done, and send what it wants sent.

        The reading loop and the responses' tasks all come here. Frames leave the protocol only under the lock, so
        they go out in the protocol's order however long one of them has to wait for the client.
        """
        self._do_what_is_wanted()
        async with self._sending:
            if frames := self._protocol.frames_to_send():
                await self._send(frames)

    def _do_what_is_wanted(self) -> None:
        while events := self._protocol.events_received():
            for event in events:
                self._begin_doing(event)

    def _begin_doing(self, event: ClientEvent) -> None:
        match event:
            case Create(body, lane, key, let_go):
                self._spawn(self._respond(body, lane, key, let_go))
            case Resume(response_id, after, lane):
                if not self._tell_again(response_id, after, lane):
                    self._spawn(self._resume(response_id, after, lane))
            case Cancel(response_id, lane):
                self._cancel(response_id, lane)
            case Withdraw(lane):
                self._beginnings.withdraw(lane)
            case Prefetch(conversation):
                self._service.hub.prefetcher.soon(self._tenant, conversation, missing=self._not_prefetched)
            case Draft():
                if self._drafts.add(event):
                    self._spawn(self._drafts.pass_on(self._draft_refused))

    async def _draft_refused(self, error: ChatpagerError) -> None:
        self._protocol.refused_aside(DRAFT, error)
        await self.act()

    def _not_prefetched(self, error: ConversationNotFound) -> None:
        if not self._ws.closed:
            self._protocol.refused_aside(PREFETCH, ConversationNotFound(error.message, param="conversation"))
            self._spawn(self.act())

    async def _send(self, frames: list[bytes]) -> None:
        try:
            await self._ws.send_within(self._service.send_seconds, frames)
        except TimeoutError:
            log.warning("ws.reader_stalled", request_id=self._request_id)
            self._ws.cut()
        except ConnectionError:
            log.debug("ws.reader_left", request_id=self._request_id)

    def is_free(self) -> bool:
        """Whether ``write`` may be called now: nobody is sending, and the client takes what it gets."""
        return not self._sending.locked() and self._ws.has_room()

    def write(self) -> None:
        """Send what the protocol wants sent, where nothing is to be waited for."""
        if frames := self._protocol.frames_to_send():
            self._ws.write_frames(frames)

    def _cancel(self, response_id: str, lane: Lane) -> None:
        try:
            self._service.hub.cancel(self._tenant, response_id)
        except ChatpagerError as error:
            self._protocol.not_cancelled(response_id, error, lane)

    async def _respond(self, body: Json, lane: Lane, key: str | None, let_go: LetGo) -> None:
        try:
            turn = await self._begin(body, lane, key)
        finally:
            del body  # the answer may go on for long
            let_go()
        if turn is None:
            await self.act()
            return
        try:
            await self._follow(turn, lane)
        finally:
            self._drafts.end()

    def _tell_again(self, response_id: str, after: int, lane: Lane) -> bool:
        """Tell a response of which nothing is to be waited for: without a task, for thousands come at once. False: this
        is none."""
        turn = at_hand(self._service, self._tenant, response_id)
        frames = self._app[REPLAYS].of(turn) if turn else None
        if turn is None or frames is None or after >= len(frames):
            return False
        self._service.metrics.resumed(recovered=True)
        self._protocol.resumed(resumed_frame(turn, after), lane)
        self._follow_leases(turn.owner)
        self._protocol.told_again(frames, lane, after)
        return True

    async def _resume(self, response_id: str, after: int, lane: Lane) -> None:
        told = wire_events.ResumedFrame(response_id=response_id, recovered=False, starting_after=after, status=None)
        try:
            turn = await resumable(self._service, self._tenant, response_id, after)
        except Exception as error:
            if not isinstance(error, ChatpagerError):
                log_mistake("ws.resume_failed", error, request_id=self._request_id)
                error = ChatpagerError()
            self._protocol.resumed(told, lane)
            self._protocol.refused(error, lane)
            await self.act()
            return
        self._protocol.resumed(resumed_frame(turn, after), lane)
        await self._follow(turn, lane, after)

    async def _follow(self, turn: LiveTurn, lane: Lane, after: int = -1) -> None:
        with self._service.readers.reading(turn, told=True):
            await self._tell(turn, lane, after)

    async def _tell(self, turn: LiveTurn, lane: Lane, after: int) -> None:
        self._follow_leases(turn.owner)
        self._protocol.began(facts_of(turn), lane, after)
        seconds = self._service.prefill_seconds
        await Telling(turn, lane, self._protocol, self, again=after >= 0, prefill_seconds=seconds).run()

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
        """None when it was refused, or is told from the store; a mistake of ours refuses it too, and the connection
        goes on."""
        try:
            asked = partial(made_of, body, response_request, self._service.served, self._tenant, key)
            turn = await self._beginnings.begin(asked, lane)
            if isinstance(turn, str):
                self._protocol.retold(await retold(self._service, self._tenant, turn), lane)
                return None
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
            self._ws.cut()


def resumed_frame(turn: LiveTurn, after: int) -> wire_events.ResumedFrame:
    status = SHOWN_AS[turn.stream.ended.status if turn.stream.ended else "in_progress"]
    return wire_events.ResumedFrame(response_id=turn.id, recovered=True, starting_after=after, status=status)


def lease_frame(event: LeaseEvent) -> wire_events.LeaseFrame:
    return wire_events.LeaseFrame(
        conversation=event.owner.partition("\0")[2],
        change=event.change,
        strength=event.strength,
        tokens=event.tokens,
        expires_in=round(event.seconds_left, 3),
        reason=event.reason,
    )
