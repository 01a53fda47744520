"""A WebSocket client that does next to nothing, so that one process can be ten thousand clients.

Text frames, pings and closes as servers of ours send them (RFC 6455); whatever else comes is an error. Its mask is
zeros: it hides nothing from proxies, and there are none.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Self, cast
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
MASK = b"\0\0\0\0"
IP_BIND_ADDRESS_NO_PORT = 24
"""Of Linux (ip(7)): the port is chosen with the other end in view. To look for one that nobody has at all took the
clients three fifths of their time once 10,000 had come and gone."""
OPEN_SECONDS = 60.0
"""After which a connection that is not open is given up."""


class SocketLost(Exception):
    """The connection was refused, or ended otherwise than by the server's closing it."""


class PlainSocket(asyncio.Protocol):
    """``on_text`` gets the bytes of each text frame as it comes. ``opened`` is done when frames may be sent, and
    ``closed`` when the connection has ended, with the code of the server's close frame or None."""

    def __init__(self, host: str, path: str, headers: Mapping[str, str], on_text: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int | None] = loop.create_future()
        lines = {
            "Host": host,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            **headers,
        }
        self._head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        self._on_text = on_text
        self._buffer = b""
        self._code: int | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        on_text: Callable[[bytes], None],
        *,
        headers: Mapping[str, str] | None = None,
        source: str | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Open ``url`` (ws://HOST[:PORT]...). ``source``: the address to connect from; ``receive_buffer``: bytes that
        the kernel keeps unread. Raises SocketLost, and ValueError for another scheme: all is sent in clear."""
        parts = urlsplit(url)
        if parts.scheme != "ws" or parts.hostname is None:
            raise ValueError(f"{url}: only ws://HOST[:PORT] can be opened")
        host, port = parts.hostname, parts.port or 80
        raw, client = socket.socket(), None
        try:
            raw.setblocking(False)
            if receive_buffer is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                if sys.platform == "linux":
                    raw.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                raw.bind((source, 0))
            loop = asyncio.get_running_loop()
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            async with asyncio.timeout(OPEN_SECONDS):
                await loop.sock_connect(raw, (host, port))
                _, client = await loop.create_connection(
                    lambda: cls(f"{host}:{port}", path, headers or {}, on_text), sock=raw
                )
                await client.opened
        except BaseException as error:
            if client is None:
                raw.close()
            else:
                client.cut()
            if isinstance(error, OSError):  # a timeout too
                raise SocketLost(f"cannot connect: {error.strerror or 'no answer'}") from error
            raise
        return client

    def send(self, text: str) -> None:
        assert self._transport is not None
        self._transport.write(_frame(TEXT, text.encode()))

    def stop_reading(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def cut(self) -> None:
        """End the connection without a word."""
        assert self._transport is not None
        self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._head.encode())

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(SocketLost("the connection was lost before it was open"))
        if not self.closed.done():
            self.closed.set_result(self._code)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self.opened.done() and not self._open():
            return
        place = 0
        while (found := self._next(place)) is not None:
            place = found
        self._buffer = self._buffer[place:]

    def _open(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        status = head.partition(b"\r\n")[0].decode(errors="replace")
        if " 101 " not in status:
            self.opened.set_exception(SocketLost(f"no WebSocket: {status}"))
            self.cut()
            return False
        self.opened.set_result(None)
        self._buffer = rest
        return True

    def _next(self, place: int) -> int | None:
        """Take the frame that begins at ``place``; where the next begins, or None while it is not whole."""
        buffer = self._buffer
        left = len(buffer) - place
        if left < 2:
            return None
        kind, size, start = buffer[place], buffer[place + 1], place + 2
        if size > 125:
            width = 2 if size == 126 else 8
            if left < 2 + width:
                return None
            size = int.from_bytes(buffer[start : start + width], "big")
            start += width
        end = start + size
        if end > len(buffer):
            return None
        self._take(kind, buffer[start:end])
        return end

    def _take(self, kind: int, payload: bytes) -> None:
        assert self._transport is not None
        match kind:
            case 0x81:
                self._on_text(payload)
            case 0x89:
                self._transport.write(_frame(PONG, payload))
            case 0x88:
                self._code = int.from_bytes(payload[:2], "big") if payload else None
                self._transport.write(_frame(CLOSE, payload[:2]))
                self._transport.close()
            case 0x8A:
                pass
            case _:
                self.cut()


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big")
    return head + MASK + payload
