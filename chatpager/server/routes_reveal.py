"""The one route of the admin API that says what was said: of one turn, asked for by name, and written down first."""

from __future__ import annotations

import msgspec
from aiohttp import web

from chatpager.errors import Forbidden, ResponseNotFound, shown
from chatpager.server import wire
from chatpager.server.auditing import audited
from chatpager.server.encode_conversation import message_items
from chatpager.server.keyring import ANYBODY, CALLER, OWNER
from chatpager.server.routes_conversations import said_in
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE


class Revealed(msgspec.Struct, frozen=True, kw_only=True):
    """A turn's own input and, where it has one, its answer; what came before is other turns'."""

    object: str = "admin.revealed"
    id: str
    tenant: str
    data: list[wire.AnyItem]


async def reveal(request: web.Request) -> web.Response:
    """An admin reads what their own tenant said; whoever has the server itself, what any did."""
    store, caller = request.app[SERVICE].store, request[CALLER]
    tenant, conversation, name = (request.match_info[part] for part in ("tenant", "id", "turn"))
    if tenant != caller.tenant and caller.key not in (OWNER.key, ANYBODY.key):
        raise Forbidden(
            f"what tenant {shown(tenant)} said is revealed to its own admins, and to the server's own key (--api-key)"
        )
    turn = next((one for one in await store.turns_of(tenant, conversation) if one.id == name), None)
    if turn is None:
        raise ResponseNotFound(f"no turn {shown(name)} in this conversation")
    await audited(request, "turn.revealed", turn.id)
    said = await said_in(store, turn, turn.led_to or turn.input_tip)
    told = Revealed(id=turn.id, tenant=tenant, data=[item for message in said for item in message_items(message)])
    return json_response(told, headers={"Cache-Control": "no-store"})
