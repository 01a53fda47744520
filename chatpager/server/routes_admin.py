"""What the admin page shows of the whole server, live and over time. Nothing here says what was said."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from chatpager.errors import InvalidRequest, StoreError
from chatpager.server import wire, wire_admin
from chatpager.server.admin_snapshot import Looking, encoded, look
from chatpager.server.logins import SENDER, caller_of
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE
from chatpager.server.sse import Frames, send_events
from chatpager.server.websocket import CONNECTIONS

LOOKING = web.AppKey("looking", Looking)
STEPS = ((120, 1), (900, 10), (86_400, 60))
"""(Up to so many seconds, points so many seconds apart.)"""
SHARED_MS = 900
"""Looks of several pages within so long are one."""


async def snapshot(request: web.Request) -> web.Response:
    return json_response(await _look(request))


async def live(request: web.Request) -> web.StreamResponse:
    """A snapshot at once, and another every second for as long as the reader stays, its key or login opens the server
    and there is something to see."""
    service = request.app[SERVICE]

    async def frames() -> Frames:
        while True:
            with suppress(StoreError):  # who was let in stays while nobody can look up keys
                await caller_of(request.app, request[SENDER], used=False)
            yield encoded(await _look(request))
            if service.draining and not service.hub.turns:
                return
            await asyncio.sleep(service.look_seconds)

    return await send_events(request, frames(), lambda error: f"event: error\ndata: {wire.encode(error)}")


async def _look(request: web.Request) -> wire_admin.Snapshot:
    service = request.app[SERVICE]
    fresh = min(SHARED_MS, int(900 * service.look_seconds))
    return await look(service, request.app[LOOKING], len(request.app[CONNECTIONS]), fresh_ms=fresh)


async def history(request: web.Request) -> web.Response:
    """What turns found, up to a day back."""
    service = request.app[SERVICE]
    raw = request.query.get("seconds", "900")
    seconds = int(raw) if raw.isascii() and raw.isdecimal() and len(raw) < 9 else 0
    if not 60 <= seconds <= STEPS[-1][0]:
        raise InvalidRequest(f"seconds is a whole number between 60 and {STEPS[-1][0]}", param="seconds")
    step = next(step for most, step in STEPS if seconds <= most)
    now = service.hub.wall()
    points = [
        wire_admin.Point(
            at=at * 1000,
            turns=sums.turns,
            prompt_tokens=sums.prompt_tokens,
            hit_tokens=sums.hit_tokens,
            attainable_tokens=sums.attainable_tokens,
            computed_tokens=sums.computed_tokens,
        )
        for at, sums in service.metrics.ledger.points(now, seconds, step)
    ]
    return json_response(wire_admin.History(at=now, seconds=seconds, step=step, points=points))
