"""``/v1/responses`` over HTTP and SSE."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from chatpager.errors import InvalidRequest
from chatpager.server import wire, wire_events
from chatpager.server.encode_response import ResponseEncoder
from chatpager.server.keyring import tenant_of
from chatpager.server.once import begin_once, key_of
from chatpager.server.reading import decoded, made_of
from chatpager.server.requests import response_request
from chatpager.server.resuming import event_number, resumable
from chatpager.server.retelling import retold
from chatpager.server.service import (
    SERVICE,
    delete_turn,
    ended_response,
    facts_of,
    final_response,
    live_response,
    stored_response,
)
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended, Event
from chatpager.sessions.turn import LiveTurn


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return json_of(wire.encoded(value), status=status, headers=headers)


def json_of(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


async def response_of(whole: wire.Response | dict[str, Any]) -> web.Response:
    """A response in one piece; with thousands of log probabilities it is written beside the event loop."""
    if not wire.has_logprobs(whole):
        return json_response(whole)
    return json_of(await asyncio.to_thread(wire.encoded_by_logprob, whole))


async def create(request: web.Request) -> web.StreamResponse:
    service, tenant = request.app[SERVICE], tenant_of(request)
    raw = await decoded(await request.read())
    stream = raw.get("stream") is True
    if raw.get("stream_options") is not None and not stream:  # a WebSocket's frame needs no word that it is one
        raise InvalidRequest("stream_options: only with stream: true", param="stream_options")
    wanted = await made_of(raw, response_request, service.served, tenant, key_of(request))
    turn = await begin_once(service, wanted)
    if isinstance(turn, str):
        if stream:
            return await _retell(request, turn)
        known = stored_response if raw.get("background") is True else ended_response
        return await response_of(await known(service, tenant, turn))
    with service.readers.reading(turn, told=stream):
        if raw.get("background") is True and not stream:
            return await response_of(_as_it_is(turn))
        if not stream:
            return await response_of(final_response(turn, await turn.stream.end()))
        encoder = ResponseEncoder(facts_of(turn))
        return await send_events(request, _frames(turn, encoder), lambda error: _frame(encoder.broken(error)))


async def _retell(request: web.Request, response_id: str) -> web.StreamResponse:
    """Raises ResponseNotFound."""
    events = await retold(request.app[SERVICE], tenant_of(request), response_id)

    async def frames() -> Frames:
        for event in events:
            yield _frame(event)

    def broken(error: wire.ErrorBody) -> str:
        return _frame(wire_events.ErrorEvent(sequence_number=len(events), message=error.message, code=error.code))

    return await send_events(request, frames(), broken)


async def _frames(turn: LiveTurn, encoder: ResponseEncoder, after: int = -1) -> Frames:
    def told(event: Event) -> Iterator[str]:
        final = final_response(turn, event) if isinstance(event, Ended) else None
        for frame in encoder.feed(event, final):
            if isinstance(frame, wire_events.PrefillEvent):
                continue
            if frame.sequence_number > after or (final and isinstance(frame, wire_events.ResponseEvent)):
                yield _frame(frame)  # the end also to a client that has more numbers than there are

    async for event in turn.stream.follow():
        long = isinstance(event, Ended) and turn.request.params.logprobs is not None
        for frame in await asyncio.to_thread(list, told(event)) if long else told(event):
            yield frame


def _frame(event: wire_events.Event | wire_events.ErrorEvent) -> str:
    return f"event: {event.type}\ndata: {wire.encode(event)}"


async def retrieve(request: web.Request) -> web.StreamResponse:
    service, response_id = request.app[SERVICE], request.match_info["id"]
    if request.query.get("stream") == "true":
        return await _resume(request)
    if "starting_after" in request.query:
        raise InvalidRequest("starting_after: events come only with stream=true", param="starting_after")
    turn = _live(request)
    if turn is not None:
        return json_response(live_response(turn))
    return await response_of(await stored_response(service, tenant_of(request), response_id))


async def _resume(request: web.Request) -> web.StreamResponse:
    """The events of a response behind ``starting_after``, then as they come; any number may read along.

    Raises:
        what ``resumable`` does.
    """
    after = event_number(request.query.get("starting_after", "-1"))
    service = request.app[SERVICE]
    turn = await resumable(service, tenant_of(request), request.match_info["id"], after)
    encoder = ResponseEncoder(facts_of(turn))
    frames = _frames(turn, encoder, after)
    with service.readers.reading(turn, told=True):
        return await send_events(request, frames, lambda error: _frame(encoder.broken(error)))


async def cancel(request: web.Request) -> web.Response:
    """End a running response; of one that has ended, its object. Raises ResponseElsewhere, ResponseNotFound."""
    service, response_id = request.app[SERVICE], request.match_info["id"]
    turn = _live(request)
    if turn is None:
        return await response_of(await ended_response(service, tenant_of(request), response_id))
    service.hub.cancel(turn.request.tenant, response_id)
    return await response_of(final_response(turn, await turn.stream.end()))


async def delete(request: web.Request) -> web.Response:
    response_id = request.match_info["id"]
    await delete_turn(request.app[SERVICE], tenant_of(request), response_id, "response")
    return json_response(wire.Deleted(id=response_id, object="response"))


def _as_it_is(turn: LiveTurn) -> wire.Response:
    """Of a key that came before, it may be at its end."""
    return final_response(turn, turn.stream.ended) if turn.stream.ended else live_response(turn)


def _live(request: web.Request) -> LiveTurn | None:
    turn = request.app[SERVICE].hub.turns.live(tenant_of(request), request.match_info["id"])
    return turn if turn and turn.request.kind == "response" else None
