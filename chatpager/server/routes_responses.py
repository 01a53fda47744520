"""``/v1/responses`` over HTTP and SSE."""

from __future__ import annotations

from aiohttp import web

from chatpager.errors import InvalidRequest, ResponseEventsExpired
from chatpager.server import wire
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.keyring import tenant_of
from chatpager.server.requests import decode, response_request
from chatpager.server.service import (
    SERVICE,
    begin,
    delete_turn,
    facts_of,
    final_response,
    live_response,
    reader_gone,
    stored_response,
)
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

MAX_DIGITS = 18


def json_response(value: object, *, status: int = 200) -> web.Response:
    return web.Response(text=wire.encode(value), status=status, content_type="application/json")


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw = decode(await request.read())
    stream = raw.get("stream") is True
    (turn,) = await begin(service, response_request(raw, service.served, tenant_of(request)))
    try:
        if not stream:
            return json_response(final_response(turn, await turn.stream.end()))
        encoder = ResponseEncoder(facts_of(turn))
        return await send_events(request, _frames(turn, encoder), lambda error: _frame(encoder.broken(error)))
    finally:
        reader_gone(service, turn, told=stream)


async def _frames(turn: LiveTurn, encoder: ResponseEncoder, after: int = -1) -> Frames:
    async for event in turn.stream.follow():
        final = final_response(turn, event) if isinstance(event, Ended) else None
        for frame in encoder.feed(event, final):
            if not isinstance(frame, wire.PrefillEvent) and frame.sequence_number > after:
                yield _frame(frame)


def _frame(event: wire.Event | wire.ErrorEvent) -> str:
    return f"event: {event.type}\ndata: {wire.encode(event)}"


async def retrieve(request: web.Request) -> web.StreamResponse:
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(request)
    if request.query.get("stream") == "true":
        return await _resume(request, turn)
    if turn is not None:
        return json_response(live_response(turn))
    return json_response(await stored_response(service, tenant_of(request), response_id))


async def _resume(request: web.Request, turn: LiveTurn | None) -> web.StreamResponse:
    """The events of a running response behind ``starting_after``, then as they come; any number may read along.

    Raises:
        ResponseNotFound: there is none.
        ResponseEventsExpired: it has ended, and what is kept of it is the whole.
    """
    after = request.query.get("starting_after", "-1")
    if not after.removeprefix("-").isdecimal() or len(after) > MAX_DIGITS:
        raise InvalidRequest("starting_after is an event's number", param="starting_after")
    service = request.app[SERVICE]
    if turn is None:
        response_id = request.match_info["id"]
        await stored_response(service, tenant_of(request), response_id)
        service.metrics.resumed(recovered=False)
        raise ResponseEventsExpired("the response has ended; read it without stream=true", param="stream")
    service.metrics.resumed(recovered=True)
    encoder = ResponseEncoder(facts_of(turn))
    frames = _frames(turn, encoder, int(after))
    return await send_events(request, frames, lambda error: _frame(encoder.broken(error)))


async def cancel(request: web.Request) -> web.Response:
    """End a running response; of one that has ended, its object."""
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(request)
    if turn is None:
        return json_response(await stored_response(service, tenant_of(request), response_id))
    service.hub.cancel(turn.request.tenant, response_id)
    return json_response(final_response(turn, await turn.stream.end()))


async def delete(request: web.Request) -> web.Response:
    response_id = request.match_info["id"]
    await delete_turn(request.app[SERVICE], tenant_of(request), response_id, "response")
    return json_response(wire.Deleted(id=response_id, object="response"))


def _live(request: web.Request) -> LiveTurn | None:
    turn = request.app[SERVICE].hub.live(tenant_of(request), request.match_info["id"])
    return turn if turn and turn.request.kind == "response" else None
