"""The engines behind the server: what each does and holds, and taking one out."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from chatpager.engine.stats import EngineStats
from chatpager.server import wire_admin as w
from chatpager.server.admin_snapshot import PATIENCE, engine_figures
from chatpager.server.auditing import audited
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.engine_host import ReplicaState


async def index(request: web.Request) -> web.Response:
    return json_response(await _told(request.app[SERVICE]))


async def drain(request: web.Request) -> web.Response:
    """Begin no turn there any more; its conversations go on elsewhere, and what runs ends."""
    return await _drained(request, drains=True)


async def resume(request: web.Request) -> web.Response:
    return await _drained(request, drains=False)


async def _drained(request: web.Request, *, drains: bool) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["id"]
    service.hub.engine.replica(name)
    await audited(request, "replica.drained" if drains else "replica.resumed", name)
    service.hub.engine.drain(name, drains=drains)
    return json_response(await _told(service))


async def _told(service: Service) -> w.Replicas:
    engine = service.hub.engine
    found = await engine.stats_of_each(PATIENCE)
    return w.Replicas(data=[_row(state, found.get(state.id)) for state in engine.replicas()])


def _row(state: ReplicaState, stats: EngineStats | None) -> w.ReplicaRow:
    there: Literal["ok", "draining"] = "draining" if state.draining else "ok"
    return w.ReplicaRow(
        id=state.id,
        state=there if state.alive else "restarting" if state.restarting else "stopped",
        restarts=state.restarts,
        process=state.process,
        answers=state.answers,
        queued_tokens=state.work,
        engine=engine_figures(stats) if stats else None,
    )
