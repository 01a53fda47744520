"""Connections of HTTP as aiohttp has them, with answers in the API's own shape to what cannot be read, a time in which
a head must come whole, and an end for those whose other side is gone without a word."""

from __future__ import annotations

import asyncio
import math
import resource
import secrets
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong

from chatpager.errors import ChatpagerError, HeadTooLarge, InvalidHTTP, Overloaded
from chatpager.server.access import of_aiohttp
from chatpager.server.arriving import FrameCount
from chatpager.server.error_answers import REQUEST_ID, error_response
from chatpager.server.leaving import Leaving
from chatpager.server.patience import TooManyConnections

IDLE_SECONDS = 75.0
"""A connection on which no request has begun for so long is closed."""
HEAD_SECONDS = 10.0
"""From the first byte of a request to the end of its head; then the connection is closed."""
DEAD_SECONDS = 30.0
"""What the other side's kernel does not take for so long ends the connection, where the system has an option for it."""
UNREAD_BYTES = 128 << 10
"""That may lie in the kernel for a reader that does not read, which takes twice as much for them; left to itself it
would keep megabytes."""

RESERVE = 64
"""Open files that are left for the database, the KV cache and whoever looks what is wrong, where a process may have
many; of few an eighth."""


class Files(NamedTuple):
    """A connection whose descriptor is at least ``many`` is told to come later, one at ``most`` is told nothing."""

    many: float
    most: float


def files_allowed() -> Files:
    """As the process has them now: half of the reserve is for telling."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return Files(math.inf, math.inf)
    reserve = min(RESERVE, allowed // 8)
    return Files(allowed - reserve, allowed - reserve // 2)


def make_runner(
    app: web.Application,
    *,
    idle_seconds: float = IDLE_SECONDS,
    head_seconds: float = HEAD_SECONDS,
    files: Files | None = None,
) -> web.AppRunner:
    """``files`` None: those that are allowed."""
    limits = Limits(head_seconds, files or files_allowed(), TooManyConnections(), Leaving())
    # aiohttp unpacks also what nobody reads, of a request that was refused, without a bound and in the event loop.
    more: dict[str, Any] = {"auto_decompress": False, "access_log": None, "keepalive_timeout": idle_seconds}
    return _Runner(app, limits, handler_cancellation=True, **more)


class Limits(NamedTuple):
    head_seconds: float
    files: Files
    too_many: TooManyConnections
    leaving: Leaving


class Connection(web.RequestHandler):
    """One, for as many requests as come on it."""

    def __init__(self, *args: Any, limits: Limits, **more: Any) -> None:
        super().__init__(*args, **more)
        self._limits = limits
        self.is_too_many = False
        """It took a descriptor of the reserve: it is answered that, and closed."""
        self._late: asyncio.TimerHandle | None = None
        self.frames: FrameCount | None = None
        """While it is to become a WebSocket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        end_when_dead(raw)
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        files = self._limits.files
        if raw is None or raw.fileno() < files.many:  # the lowest that was free (POSIX): so many are in use
            return
        self.is_too_many = True
        self._limits.too_many.tell(asyncio.get_running_loop().time(), "only the reserve of open files is left")
        if raw.fileno() >= files.most:
            self.force_close()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Of a WebSocket's frames, those that came with its request too."""
        frames, self.frames = self.frames, None
        counted: Any = frames.before(parser) if frames else parser
        super().set_parser(counted, data_received_cb)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # aiohttp's own word for that nothing is read or answered: neither a body nor the rest of one that was refused.
        waiting = self._waiter is not None and not self._waiter.done()
        if not waiting:
            self._forget_time()
        elif self._late is None and data.strip(b"\r\n"):  # empty lines may stand before a request (RFC 9112, 2.2)
            self._late = asyncio.get_running_loop().call_later(self._limits.head_seconds, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_time()
        self._limits.leaving.left(partial(self._lost, exc))

    def _lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._data_received_cb = None  # a WebSocket's own: aiohttp lets go of all else

    def _forget_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Called by aiohttp for what it cannot read, and for a mistake outside of every route."""
        super().handle_error(request, status, exc, message)  # logs it, and raises where an answer has begun
        assert isinstance(request, web.Request)
        answer = refusal(unreadable(exc) if isinstance(exc, HttpProcessingError) else ChatpagerError(), request)
        answer.force_close()
        answer.headers["Connection"] = "close"  # what cannot be read counts as HTTP/1.0, where nobody would say so
        return answer


class _Server(web.Server):
    def __init__(self, of_app: web.Server, limits: Limits, **more: Any) -> None:
        super().__init__(self._handle, request_factory=of_app.request_factory, **more)
        self._of_app, self._limits = of_app, limits

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, limits=self._limits, **self._kwargs)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection) and request.protocol.is_too_many:
            assert isinstance(request, web.Request)
            answer = refusal(Overloaded("too many connections are open; try again later"), request)
            answer.force_close()
            return answer
        try:
            return await self._of_app.request_handler(request)
        except web.HTTPException as error:  # of what aiohttp looks at before any middleware: Expect
            assert isinstance(request, web.Request)
            return refusal(of_aiohttp(error, request), request)


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, limits: Limits, **more: Any) -> None:
        super().__init__(app, **more)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._limits, **self._kwargs)


def unreadable(error: HttpProcessingError) -> InvalidHTTP | HeadTooLarge:
    """In words of ours: aiohttp's quote what came, which may be a key."""
    if isinstance(error, LineTooLong):
        return HeadTooLarge(f"the request's line, or one of its headers, is longer than {error.args[1]} bytes")
    if isinstance(error, BadHttpMethod):
        return InvalidHTTP("this is no HTTP/1.1 request; a server without a proxy speaks plain HTTP, not TLS")
    return InvalidHTTP("this is no HTTP/1.1 request that can be read; the rest of the connection is not read either")


def refusal(error: ChatpagerError, request: web.Request) -> web.Response:
    """To a request that no middleware has seen."""
    request[REQUEST_ID] = "req_" + secrets.token_hex(12)
    answer = error_response(error, request)
    answer.headers["x-request-id"] = request[REQUEST_ID]
    return answer


def end_when_dead(connection: socket.socket | None, seconds: float = DEAD_SECONDS) -> None:
    """Of a TCP connection, where there is the option."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, option, round(1000 * seconds))
