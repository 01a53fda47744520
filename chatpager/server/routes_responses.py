"""``/v1/responses`` over HTTP and SSE."""

from __future__ import annotations

from aiohttp import web

from chatpager.errors import ResponseNotFound
from chatpager.server import wire
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.requests import decode, response_request
from chatpager.server.service import (
    SERVICE,
    TENANT,
    Service,
    begin,
    facts_of,
    final_response,
    live_response,
    reader_gone,
    stored_response,
)
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn


def json_response(value: object) -> web.Response:
    return web.Response(text=wire.encode(value), content_type="application/json")


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw = decode(await request.read())
    stream = raw.get("stream") is True
    turn = await begin(service, response_request(raw, service.served, TENANT))
    try:
        if not stream:
            return json_response(final_response(turn, await turn.stream.end()))
        encoder = ResponseEncoder(facts_of(turn))
        return await send_events(request, _frames(turn, encoder), lambda error: _frame(encoder.broken(error)))
    finally:
        reader_gone(service, turn, told=stream)


async def _frames(turn: LiveTurn, encoder: ResponseEncoder) -> Frames:
    async for event in turn.stream.follow():
        final = final_response(turn, event) if isinstance(event, Ended) else None
        for frame in encoder.feed(event, final):
            if not isinstance(frame, wire.PrefillEvent):
                yield _frame(frame)


def _frame(event: wire.Event | wire.ErrorEvent) -> str:
    return f"event: {event.type}\ndata: {wire.encode(event)}"


async def retrieve(request: web.Request) -> web.Response:
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(service, response_id)
    if turn is not None:
        return json_response(live_response(turn))
    return json_response(await stored_response(service, TENANT, response_id))


async def cancel(request: web.Request) -> web.Response:
    """End a running response; of one that has ended, its object."""
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(service, response_id)
    if turn is None:
        return json_response(await stored_response(service, TENANT, response_id))
    service.hub.cancel(TENANT, response_id)
    return json_response(final_response(turn, await turn.stream.end()))


async def delete(request: web.Request) -> web.Response:
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(service, response_id)
    if turn is not None:
        service.hub.cancel(TENANT, response_id)
        await turn.stream.end()
    elif (await service.store.turn(TENANT, response_id)).kind != "response":
        raise ResponseNotFound(f"no response {response_id!r}")
    await service.store.delete_turn(TENANT, response_id)
    return json_response(wire.Deleted(id=response_id, object="response.deleted"))


def _live(service: Service, response_id: str) -> LiveTurn | None:
    turn = service.hub.live(TENANT, response_id)
    return turn if turn and turn.request.kind == "response" else None
