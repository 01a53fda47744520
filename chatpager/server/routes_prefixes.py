"""Publishing what conversations of every tenant begin with: for admins, because all tenants share it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from chatpager.errors import InvalidRequest
from chatpager.server import wire, wire_conversations
from chatpager.server.auditing import audited
from chatpager.server.input_items import Json, check_text
from chatpager.server.reading import decoded
from chatpager.server.routes_cache import lease_granted
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE
from chatpager.sessions.keeping import KEPT_AT_MOST
from chatpager.sessions.publishing import Known

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIELDS = {"label", "instructions", "ttl"}


async def create(request: web.Request) -> web.Response:
    """Publish instructions, compute them, and with a ``ttl`` keep them on the device for so many seconds."""
    service = request.app[SERVICE]
    label, instructions, ttl = _wish(await decoded(await request.read()))
    await audited(request, "prefix.published", label)
    known, pinned = await service.hub.publisher.publish(label, instructions, service.served.name, ttl)
    pin = None
    if ttl is not None:
        pin = lease_granted(pinned) if pinned else {"status": "refused", "tokens": 0, "expires_in": 0.0}
    return json_response(_prefix(known, pin=pin))


async def index(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    return json_response({"object": "list", "data": [_prefix(known) for known in await service.hub.publisher.every()]})


async def retrieve(request: web.Request) -> web.Response:
    known = await request.app[SERVICE].hub.publisher.known(request.match_info["label"])
    return json_response(_prefix(known, instructions=known.prefix.instructions))


async def delete(request: web.Request) -> web.Response:
    service, label = request.app[SERVICE], request.match_info["label"]
    await audited(request, "prefix.withdrawn", label)
    await service.hub.publisher.withdraw(label)
    return json_response(wire.Deleted(id=label, object="prefix.deleted"))


def _wish(body: Json) -> tuple[str, str, float | None]:
    if unknown := body.keys() - FIELDS:
        raise InvalidRequest(f"{min(unknown)}: unknown field", param=min(unknown))
    label, instructions, ttl = body.get("label"), body.get("instructions"), body.get("ttl")
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise InvalidRequest("label is 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first", param="label")
    if not isinstance(instructions, str):
        raise InvalidRequest("instructions is a text", param="instructions")
    if ttl is not None and (type(ttl) not in (int, float) or not 0 < ttl <= KEPT_AT_MOST):
        raise InvalidRequest(f"ttl is a number of seconds above 0, and at most {KEPT_AT_MOST:.0f}", param="ttl")
    return label, check_text(instructions, "instructions"), ttl


def _prefix(known: Known, **more: Any) -> wire_conversations.Prefix:
    cache = msgspec.to_builtins(known.cache) if known.cache else {"label": known.prefix.label}
    return wire_conversations.Prefix(
        status="published" if known.cache else "not_served",
        model=known.prefix.model,
        created_at=known.prefix.created_at // 1000,
        **cache,
        **more,
    )
