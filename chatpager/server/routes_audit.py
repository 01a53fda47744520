"""``GET /v1/admin/audit``: what was done that users may not do."""

from __future__ import annotations

import msgspec
import structlog
from aiohttp import web

from chatpager.errors import InvalidRequest, StoreError
from chatpager.server.routes_conversations import page_limit
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service
from chatpager.store import AuditEntry

log = structlog.get_logger(__name__)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """``at`` of an entry is in milliseconds since the epoch. Where ``has_more``, ``?before=`` the last one's number
    goes on."""

    object: str = "list"
    data: list[AuditEntry]
    has_more: bool


async def index(request: web.Request) -> web.Response:
    before = request.query.get("before")
    if before is not None and not (before.isascii() and before.isdecimal() and len(before) < 19):
        raise InvalidRequest("before is the number of an entry", param="before")
    store, limit = request.app[SERVICE].store, page_limit(request, 20)
    entries, more = await store.audit.page(limit=limit, before=None if before is None else int(before))
    return json_response(Audit(data=entries, has_more=more), headers={"Cache-Control": "no-store"})


async def drained(service: Service) -> None:
    """Somebody who has the machine ends the server; it ends also where that cannot be written down."""
    entry = AuditEntry(at=service.hub.wall(), key="operator", tenant="", action="server.drained", target="", address="")
    try:
        await service.store.audit.add(entry)
    except StoreError as error:
        log.warning("audit.drain_not_written", reason=str(error))
