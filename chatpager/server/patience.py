"""How long a body may keep the server waiting, how much of it is taken, and what is said when there are too many
connections."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from chatpager.errors import Overloaded, RateLimited, RequestTimeout, RequestTooLarge, UnsupportedEncoding, shown
from chatpager.server.arriving import ARRIVING, Arriving
from chatpager.server.keyring import CALLER, tenant_of
from chatpager.server.packed import PACKED, unpacked
from chatpager.server.service import SERVICE
from chatpager.sessions.mistakes import log_mistake

log = structlog.get_logger(__name__)

REMIND_SECONDS = 60.0
ANYBODYS_BYTES = 16 << 10
"""Of a body that comes without a key: a login is shorter, and who has no key is no tenant whose connections are few."""
AS_IT_IS = ("", "identity")
"""What a ``Content-Encoding`` may say of a body that is not packed."""


@web.middleware
async def whole_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reads the body before the route runs, which then finds it. Who may not come in was sent away before, and where
    no key is needed little is taken."""
    packed = request.headers.get("Content-Encoding", "")
    if packed.lower() not in (*AS_IT_IS, *PACKED):
        raise UnsupportedEncoding(f"Content-Encoding: {shown(packed)} is not known here; send gzip, deflate or none")
    if not request.can_read_body:
        return await handler(request)
    if CALLER not in request:
        request = request.clone(client_max_size=min(ANYBODYS_BYTES, request.client_max_size))
    arriving = Arriving(request.app[ARRIVING], tenant_of(request) if CALLER in request else "")
    try:
        await _gather(request, arriving, packed.lower())
        return await handler(request)
    finally:
        arriving.give_back()


async def _gather(request: web.Request, arriving: Arriving, packed: str) -> None:
    """As ``request.read``, which then has it, unpacked, with a deadline and counted. Raises RequestTimeout,
    RequestTooLarge, InvalidRequest, Overloaded, RateLimited."""
    seconds, body = request.app[SERVICE].body_seconds, bytearray()
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                arriving.add(len(chunk))
                body += chunk
                if len(body) > request.client_max_size:
                    raise RequestTooLarge(f"the body is larger than {request.client_max_size} bytes")
        whole = bytes(body)
        if packed in PACKED:
            whole = await unpacked(whole, packed, request.client_max_size)
            arriving.add(len(whole))
    except TimeoutError:
        raise RequestTimeout(f"the body was not there within {seconds:g} s") from None
    except (Overloaded, RateLimited) as error:
        request.app[SERVICE].metrics.refused(error)
        raise
    request._read_bytes = whole


class TooManyConnections:
    """An event loop's exception handler. asyncio tells of every connection that it could not accept, with the whole
    traceback, hundreds of times a second; that is said once a minute. Of another exception is told what ``log_mistake``
    tells: asyncio's own words have its message and the arguments of what it came from."""

    def __init__(self, remind_seconds: float = REMIND_SECONDS) -> None:
        self._remind = remind_seconds
        self._due = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE) and "socket" in context:
            self.tell(loop.time(), str(error.strerror))
        elif error is not None:
            log_mistake("loop.mistake", error)
        else:
            loop.default_exception_handler(context)

    def tell(self, now: float, reason: str) -> None:
        if now >= self._due:
            self._due = now + self._remind
            log.error(
                "connections.refused",
                reason=reason,
                way_out="fewer clients, or a higher limit on open files (ulimit -n)",
            )
