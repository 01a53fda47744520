"""Server-sent events on aiohttp: frames, a comment while nothing comes, and a reader that may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

KEEPALIVE_SECONDS = 10.0
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


async def send_events(request: web.Request, frames: AsyncIterator[str]) -> web.StreamResponse:
    """Send ``frames`` (each without its empty line) until they end, or until the reader leaves."""
    response = web.StreamResponse(headers={**HEADERS, "x-request-id": request["request_id"]})
    await response.prepare(request)
    beat = asyncio.ensure_future(_keep_alive(response))
    try:
        async for frame in frames:
            await response.write(f"{frame}\n\n".encode())
        await response.write_eof()
    except ConnectionResetError:
        log.info("sse.reader_left", request_id=request["request_id"])
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    return response


async def _keep_alive(response: web.StreamResponse) -> None:
    """Comments, so that no proxy takes a long prefill for a dead connection."""
    while True:
        await response.write(b": \n\n")
        await asyncio.sleep(KEEPALIVE_SECONDS)
