"""Server-sent events on aiohttp: frames, a comment while nothing comes, and a reader that may leave or stall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog
from aiohttp import web

from chatpager.errors import ChatpagerError
from chatpager.server import wire
from chatpager.server.error_answers import REQUEST_ID
from chatpager.server.error_bodies import error_body
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.mistakes import log_mistake

log = structlog.get_logger(__name__)

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
Frames = AsyncGenerator[str, None]


async def send_events(
    request: web.Request, frames: Frames, broken: Callable[[wire.ErrorBody], str]
) -> web.StreamResponse:
    """Send ``frames`` (each without its empty line) until they end, or until the reader leaves.

    Once the headers are sent an error can only be told in the stream: ``broken`` makes its frame, the last one.
    """
    service, request_id = request.app[SERVICE], request[REQUEST_ID]
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    beat = asyncio.ensure_future(_keep_alive(request, response, service))
    try:
        async with aclosing(_to_the_end(frames, broken, request_id)) as all_frames:
            async for frame in all_frames:
                async with asyncio.timeout(service.send_seconds):
                    await response.write(f"{frame}\n\n".encode())
        async with asyncio.timeout(service.send_seconds):
            await response.write_eof()
    except TimeoutError:
        log.warning("sse.reader_stalled", request_id=request_id)
        _cut(request)
    except ConnectionError:
        log.info("sse.reader_left", request_id=request_id)
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    return response


async def _to_the_end(frames: Frames, broken: Callable[[wire.ErrorBody], str], request_id: str) -> Frames:
    async with aclosing(frames):
        try:
            async for frame in frames:
                yield frame
        except Exception as error:
            log_mistake("sse.failed", error, request_id=request_id)
            yield broken(error_body(error if isinstance(error, ChatpagerError) else ChatpagerError())[1])


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _keep_alive(request: web.Request, response: web.StreamResponse, service: Service) -> None:
    """Comments, so that no proxy takes a long prefill for a dead connection; who does not take them is cut off."""
    try:
        while True:
            async with asyncio.timeout(service.send_seconds):
                await response.write(b": \n\n")
            await asyncio.sleep(service.keepalive_seconds)
    except TimeoutError:
        _cut(request)
