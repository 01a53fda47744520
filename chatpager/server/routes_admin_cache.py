"""Whose the cache is, for the admin page: tables, the block map, leases, and pinning for every tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from chatpager.engine.published import OWNER as PUBLISHED
from chatpager.engine.stats import LeaseState
from chatpager.errors import InvalidRequest, NotFound, NothingCached, shown
from chatpager.server import wire
from chatpager.server import wire_admin as w
from chatpager.server.auditing import audited
from chatpager.server.block_mirror import BlockMirror
from chatpager.server.ledger import Reuse
from chatpager.server.reading import decoded
from chatpager.server.routes_cache import pin_object, pin_wish
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE
from chatpager.sessions.heads import names_of, owner_of

MIRROR = web.AppKey("mirror", BlockMirror)
MOST_ROWS = 500
MOST_LEASES = 200


async def tables(request: web.Request) -> web.Response:
    """What turns found, by conversation, tenant and published prefix."""
    service = request.app[SERVICE]
    ledger = service.metrics.ledger
    latest = list(reversed(ledger.sessions.items()))[:MOST_ROWS]
    known = await service.hub.inspector.residences([owner for owner, _ in latest])
    sessions = []
    for owner, reuse in latest:
        (tenant, name), place = names_of(owner), known.get(owner)
        sessions.append(
            w.SessionRow(
                tenant=tenant,
                id=name,
                **_reuse(reuse),
                tokens=place.tokens if place else None,
                device_tokens=place.device_tokens if place else None,
                leases=leases_told(place.leases) if place else [],
                replica=service.hub.engine.place_of(owner),
            )
        )
    tenants = [w.TenantRow(tenant=tenant, **_reuse(reuse)) for tenant, reuse in reversed(ledger.tenants.items())]
    published = {known.prefix.label: known.cache for known in await service.hub.publisher.every()}
    prefixes = [
        w.PrefixRow(
            label=label,
            **_reuse(ledger.prefixes.get(label, Reuse())),
            tokens=cache.tokens if cache else 0,
            device_tokens=cache.device_tokens if cache else 0,
            sessions=cache.sessions if cache else 0,
        )
        for label, cache in published.items()
    ]
    return json_response(w.Tables(sessions=sessions, tenants=tenants[:MOST_ROWS], prefixes=prefixes))


def names_told(owner: str) -> tuple[str, str]:
    """The tenant, and the conversation or response; of a published prefix no tenant and its label."""
    return ("", owner.removeprefix(PUBLISHED)) if owner.startswith(PUBLISHED) else names_of(owner)


def _reuse(reuse: Reuse) -> dict[str, Any]:
    fields = msgspec.to_builtins(reuse)
    return {"at": fields.pop("last_at"), **fields}


def leases_told(leases: Sequence[LeaseState]) -> list[w.LeaseTold]:
    return [
        w.LeaseTold(
            strength=lease.strength.value,
            tokens=lease.tokens,
            seconds_left=round(lease.seconds_left, 3),
            reason=lease.reason,
        )
        for lease in leases
    ]


async def blocks(request: web.Request) -> web.Response:
    """The block map, or what changed of it after the stamp ``since`` of an ``epoch``; see ``block_mirror``."""
    since, epoch = _number(request, "since"), _number(request, "epoch")
    body = await request.app[MIRROR].told(request.app[SERVICE].hub.inspector, since, epoch)
    return web.Response(body=body, content_type="application/octet-stream", headers={"Cache-Control": "no-store"})


def _number(request: web.Request, name: str) -> int:
    raw = request.query.get(name, "0")
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 10):
        raise InvalidRequest(f"{name} is a whole number", param=name)
    return int(raw)


async def block(request: web.Request) -> web.Response:
    raw = request.match_info["id"]
    block_id = int(raw) if raw.isascii() and raw.isdecimal() and len(raw) <= 10 else 0
    found = await request.app[SERVICE].hub.inspector.block(block_id)
    if found is None:
        raise NotFound(f"there is no block {shown(raw)}")
    facts = {name: getattr(found, name) for name in found.__struct_fields__ if name != "sessions"}
    sessions = [w.SessionName(tenant=tenant, id=name) for tenant, name in map(names_told, found.sessions)]
    return json_response(w.Block(**facts, sessions=sessions))


async def leases(request: web.Request) -> web.Response:
    found = await request.app[SERVICE].hub.inspector.leases(MOST_LEASES)
    rows = []
    for session in found.sessions:
        tenant, name = names_told(session.owner)
        rows.append(
            w.LeaseRow(
                tenant=tenant,
                id=name,
                tokens=session.tokens,
                device_tokens=session.device_tokens,
                leases=leases_told(session.leases),
            )
        )
    counts = {name: getattr(found, name) for name in found.__struct_fields__ if name != "sessions"}
    return json_response(w.Leases(**counts, data=rows))


async def pin(request: web.Request) -> web.Response:
    """As ``PUT /v1/conversations/{id}/pin``, of any tenant's conversation or response."""
    service = request.app[SERVICE]
    tenant, name = request.match_info["tenant"], request.match_info["id"]
    strength, ttl, tokens = pin_wish(await decoded(await request.read() or b"{}"))
    await audited(request, "conversation.pinned", f"{tenant}/{name}")
    event = await service.hub.keeper.pin(owner_of(tenant, name), strength, ttl, tokens, replaces=True)
    if event is None or not event.tokens:
        raise NothingCached("nothing of this conversation is on the device, or no block can be leased now")
    return json_response(pin_object(name, event))


async def unpin(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    tenant, name = request.match_info["tenant"], request.match_info["id"]
    await audited(request, "conversation.unpinned", f"{tenant}/{name}")
    service.hub.keeper.unpin(owner_of(tenant, name))
    return json_response(wire.Deleted(id=name, object="conversation.pin.deleted"))
