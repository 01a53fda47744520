"""What is asked for twice is begun once. Its key (the header ``Idempotency-Key``, or ``idempotency_key`` in a frame of
a WebSocket) names it for its tenant: a response for as long as it is stored, other answers, and what is done with
conversations, for some minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aiohttp import web

from chatpager.errors import IdempotencyConflict
from chatpager.server import wire
from chatpager.server.input_items import Json
from chatpager.server.keyed import Name
from chatpager.server.keyring import tenant_of
from chatpager.server.readers import is_kept
from chatpager.server.reading import checked_key, decoded
from chatpager.server.requests import UNKEPT_KEY, digest_of
from chatpager.server.service import SERVICE, Service, abandoned, begin, begin_all
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import KeyTaken, TurnRequest

HEADER = "Idempotency-Key"


def key_of(request: web.Request) -> str | None:
    """Raises InvalidRequest."""
    return checked_key(request.headers.get(HEADER), HEADER)


def with_warning(request: TurnRequest, warning: str) -> TurnRequest:
    warnings = [*request.parameters.get("warnings", []), warning]
    return replace(request, parameters={**request.parameters, "warnings": warnings})


async def answered_once(request: web.Request, answer: Callable[[web.Request, Json], Awaitable[object]]) -> web.Response:
    """What ``answer`` makes of the request and its body, or made of the one that came with the same key before.

    Raises:
        IdempotencyConflict: the key came before with another request.
        what ``answer`` does: then the key is nobody's again.
    """
    raw, key = await decoded(await request.read() or b"{}"), key_of(request)

    async def made() -> str:
        return wire.encode(await answer(request, raw))

    if key is None:
        text = await made()
    else:
        name, size = Name(tenant_of(request), request.path, key), len(await request.read())
        text = await request.app[SERVICE].answered.begin(name, digest_of(raw), size, made)
    return web.Response(text=text, content_type="application/json")


async def begin_keyed(request: web.Request, raw: Json, wanted: Sequence[TurnRequest]) -> Sequence[LiveTurn]:
    """For the wires whose answers have no name to be got by: the turns of ``wanted``, or those that the request's key
    began before, from the body ``raw``.

    Raises:
        IdempotencyConflict: the key came before with another request.
        what ``service.begin`` does.
    """
    service, key = request.app[SERVICE], key_of(request)
    if key is not None and not is_kept(wanted[0]):
        key, wanted = None, [with_warning(one, UNKEPT_KEY) for one in wanted]
    if key is None:
        return await begin_all(service, wanted)
    name, size = Name(wanted[0].tenant, request.path, key), len(await request.read())
    asking = asyncio.ensure_future(
        service.keyed.begin(name, digest_of(raw), size, lambda: begin_all(service, wanted)),
    )
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(abandoned(service, told=True))
        raise


async def begin_once(
    service: Service, request: TurnRequest, *, unwanted: Callable[[], bool] = lambda: False
) -> LiveTurn | str:
    """The turn that the request begins, or the one that its key began before; only the id of one whose events are gone.
    ``unwanted`` as ``service.begin`` has it.

    Raises:
        IdempotencyConflict: the key came before with another request.
        what ``service.begin`` does.
    """
    while True:
        if request.client_key is not None:
            known = await service.store.turn_of_key(request.tenant, request.client_key)
            if known is not None:
                if known.request.get("sent") != request.parameters["sent"]:
                    raise IdempotencyConflict(f"this key came before with another request, for {known.id}")
                await service.hub.turns.begun(known.id)
                return service.hub.turns.told(request.tenant, known.id) or known.id
        try:
            (turn,) = await begin(service, request, unwanted=unwanted)
        except KeyTaken:
            continue  # by the same request, which came at the same time
        return turn
