"""What an admin does to the server and looks up of it: turns of a conversation, cancelling, settings, draining."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatpager.errors import ResponseNotFound, shown
from chatpager.server import wire_admin as w
from chatpager.server.auditing import audited, write_down
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE
from chatpager.store import Turn

MOST_TURNS = 200
DRAIN: web.AppKey[Callable[[web.Application], asyncio.Future[None]]] = web.AppKey("drain")
DRAINING: web.AppKey[list[asyncio.Future[None]]] = web.AppKey("draining")


async def timeline(request: web.Request) -> web.Response:
    """The latest turns of a conversation: their phases, where their prompts came from, and why no more of them."""
    service = request.app[SERVICE]
    tenant, name = request.match_info["tenant"], request.match_info["id"]
    session = await service.store.session(tenant, name)
    turns = await service.store.turns_of(tenant, name, latest=MOST_TURNS)
    told = w.Timeline(tenant=tenant, id=name, created_at=session.created_at, turns=[_told(turn) for turn in turns])
    return json_response(told)


def _told(turn: Turn) -> w.TimelineTurn:
    receipt, timings = turn.receipt or {}, turn.timings or {}
    evicted = receipt.get("evicted") or {}
    fields = ("prompt_tokens", "device_tokens", "host_tokens", "disk_tokens", "computed_tokens", "attainable_tokens")
    return w.TimelineTurn(
        id=turn.id,
        kind=turn.kind,
        status=turn.status,
        at=turn.created_at,
        completed_at=turn.completed_at,
        error=turn.error["code"] if turn.error else None,
        output_tokens=(turn.usage or {}).get("output_tokens"),
        **{name: timings.get(name) for name in ("queue_ms", "prefill_ms", "ttft_ms", "total_ms")},
        **{name: receipt.get(name) for name in fields},
        miss_reason=receipt.get("miss_reason"),
        diverged_at=receipt.get("diverged_at"),
        evicted_by=evicted.get("by"),
        broken=_broken(receipt.get("break")),
    )


def _broken(told: dict[str, Any] | None) -> w.BreakTold | None:
    """Without the words that stood there."""
    if not told:
        return None
    return w.BreakTold(
        response_id=told["response_id"],
        token_index=told["token_index"],
        message_index=told.get("message_index"),
        role=told.get("role"),
    )


async def cancel(request: web.Request) -> web.Response:
    """End a running turn, whosever it is."""
    hub, name = request.app[SERVICE].hub, request.match_info["id"]
    turn = hub.turns.get(name)
    if turn is None:
        raise ResponseNotFound(f"no response {shown(name)} is running")
    await audited(request, "response.cancelled", turn.id)
    hub.cancel(turn.request.tenant, turn.id)
    return json_response(w.Cancelling(id=turn.id, state=turn.state.value))


async def settings(request: web.Request) -> web.Response:
    return json_response(w.Settings(data=list(request.app[SERVICE].settings)))


async def drain(request: web.Request) -> web.Response:
    """Refuse new turns from now on, and let those that run end, as at a shutdown. There is no way back but a start."""
    app = request.app
    if not app[SERVICE].draining:
        await write_down(request, "server.drained", "")
        app[DRAIN](app)
    return json_response(w.Drained(status="draining"))
