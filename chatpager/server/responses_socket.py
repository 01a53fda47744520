"""A WebSocket that says why it closes, hears no more than one client may say, and for which the kernel keeps no
megabytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from chatpager.errors import ChatpagerError, RequestTooLarge
from chatpager.server import wire
from chatpager.server.error_bodies import error_frame
from chatpager.server.frame_rate import TokenBucket
from chatpager.server.protocol import SUBPROTOCOL

HEARTBEAT_SECONDS = 20.0
"""Without a sign of life a ping is sent; half as long without another and the other end is gone."""
MAX_REASON = 123
"""Bytes of a close frame's reason: a control frame holds 125, its code takes two (RFC 6455, 5.5.1)."""
BURST_SECONDS = 5.0
"""Of silence are saved up: so many seconds' frames may come at once."""
SMALL = 16 << 10
"""Bytes. The transport takes twice as many before it has too much."""


class ResponsesSocket(web.WebSocketResponse):
    """Says why before it closes for a frame that it did not read. All its settings stand here: the tests of RFC 6455
    open the same socket as the server. ``send_seconds``: for a client to take a pong."""

    def __init__(
        self, *, max_message_bytes: int, close_seconds: float, send_seconds: float, frames_per_second: float
    ) -> None:
        super().__init__(
            protocols=[SUBPROTOCOL],
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=max_message_bytes,
            timeout=close_seconds,
            writer_limit=0,  # every frame of aiohttp's waits while the transport has too much
            compress=False,
            autoping=False,
        )
        self._send_seconds = send_seconds
        self._frames_per_second = frames_per_second

    async def frames(self, dealt_with: Callable[[], None] = lambda: None) -> AsyncGenerator[WSMessage, None]:
        """What is said, and a call behind each. What comes faster than ``frames_per_second`` waits in the client, pings
        too: nothing is read meanwhile. Between two frames others have their turn."""
        clock = asyncio.get_running_loop().time
        bucket = TokenBucket(self._frames_per_second, self._frames_per_second * BURST_SECONDS, clock())
        async for message in self:
            await asyncio.sleep(bucket.take(clock()))
            if message.type is WSMsgType.PING:
                await self._answer(message.data)
            elif message.type is not WSMsgType.PONG:
                yield message
            del message  # while the next is waited for
            dealt_with()

    async def _answer(self, ping: bytes) -> None:
        try:
            async with asyncio.timeout(self._send_seconds):
                await self.pong(ping)
        except TimeoutError:
            self.cut()
        except ConnectionError:
            pass  # the next that is read is the end

    def cut(self) -> None:
        """The end, without waiting for what the client has not taken."""
        if self._req is not None and self._req.transport is not None:
            self._req.transport.abort()

    def let_go(self) -> None:
        """Nobody serves it any more. Of one that the client cut off, aiohttp's next ping would hold all there is for
        twenty seconds."""
        self._cancel_heartbeat()

    _pipe: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        writer = await super().prepare(request)
        self._pipe = request.transport
        if self._pipe is not None:
            self._pipe.set_write_buffer_limits(high=2 * SMALL)
        return writer

    def has_room(self) -> bool:
        """Whether it is open and the client takes what it gets."""
        pipe = self._pipe
        return pipe is not None and not self.closed and not pipe.is_closing() and pipe.get_write_buffer_size() <= SMALL

    def write_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames of text while there ``has_room``: in one go, past aiohttp's coroutines, which would wait for
        nothing and cost as much again as all the rest of a token's way."""
        assert self._pipe is not None, "not open"
        if len(frames) == 1:
            self._pipe.write(_head(len(frames[0])) + frames[0])
            return
        self._pipe.write(b"".join([part for frame in frames for part in (_head(len(frame)), frame)]))

    async def send_within(self, seconds: float, frames: Sequence[bytes]) -> None:
        """Raises TimeoutError: the client has not taken one of these frames of text within so many seconds;
        ConnectionError: it has left."""
        if self.has_room() and sum(map(len, frames)) <= SMALL:
            self.write_frames(frames)
            return
        for frame in frames:
            if self.has_room() and len(frame) <= SMALL:
                self.write_frames([frame])
                continue
            async with asyncio.timeout(seconds):
                await self.send_frame(frame, WSMsgType.TEXT)

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and not message:
            error = RequestTooLarge(f"a frame is larger than {self._max_msg_size} bytes")
            return await self.refuse(code, error)
        try:
            async with asyncio.timeout(self._send_seconds + self._timeout):  # to be taken, and to be answered
                return await super().close(code=code, message=message, drain=drain)
        except TimeoutError:
            self.cut()
            return True

    async def refuse(self, code: int, error: ChatpagerError) -> bool:
        try:
            async with asyncio.timeout(self._send_seconds):
                await self.send_frame(wire.encoded(error_frame(error)), WSMsgType.TEXT)
        except TimeoutError:
            self.cut()
            return True
        except ConnectionError:
            pass  # it is closed all the same
        reason = str(error).encode()[:MAX_REASON].decode(errors="ignore")
        return await self.close(code=code, message=reason.encode())


def _head(size: int) -> bytes:
    """Of a whole frame of text from a server (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((0x81, size))
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")
