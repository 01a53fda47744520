"""``/v1/messages``: Anthropic's Messages, the whole conversation in, events or one message out."""

from __future__ import annotations

from aiohttp import web

from chatpager.server import wire
from chatpager.server.encode_chat import FINISH
from chatpager.server.encode_messages import MessageEncoder, message_end, message_usage, whole_message
from chatpager.server.ends import account, failure
from chatpager.server.error_answers import REQUEST_ID, anthropic_error
from chatpager.server.keyring import tenant_of
from chatpager.server.message_requests import count_request, message_request
from chatpager.server.once import HEADER, begin_keyed
from chatpager.server.reading import decoded, made_of
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service, delete_turn
from chatpager.server.sse import Frames, send_events
from chatpager.server.wire_messages import AnthropicError, CountedTokens, MessageEvent, MessageUsage
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn


async def create(request: web.Request) -> web.StreamResponse:
    service, request_id = request.app[SERVICE], request[REQUEST_ID]
    raw = await decoded(await request.read())
    wanted, body = await made_of(raw, message_request, service.served, tenant_of(request))
    (turn,) = await begin_keyed(request, raw, [wanted])
    with service.readers.reading(turn, told=HEADER in request.headers):
        if body.stream:
            frames = _frames(service, turn, request_id)
            return await send_events(request, frames, lambda error: _frame(anthropic_error(500, error, request_id)))
        return await _whole(turn, request_id)


async def count_tokens(request: web.Request) -> web.Response:
    """The tokens of the prompt that this request would ask the model with, whether they fit or not."""
    service = request.app[SERVICE]
    raw = await decoded(await request.read())
    wanted = await made_of(raw, count_request, service.served, tenant_of(request))
    return json_response(CountedTokens(len(await service.hub.prompt(wanted)), wanted.parameters or None))


async def delete(request: web.Request) -> web.Response:
    """Forget an answer: no later conversation finds its words."""
    message_id = request.match_info["id"]
    await delete_turn(request.app[SERVICE], tenant_of(request), message_id, "message")
    return json_response(wire.Deleted(id=message_id, object="message"))


async def _whole(turn: LiveTurn, request_id: str) -> web.Response:
    ended = await turn.stream.end()
    if ended.status not in FINISH:
        status, error = failure(ended)
        return json_response(anthropic_error(status, error, request_id), status=status)
    usage = message_usage(turn.stored_usage(ended), turn.request.keep_seconds)
    end = message_end(ended, turn.stop_string)
    whole = whole_message(turn.id, turn.request.model, turn.stream.events, end, usage, account(turn, ended))
    return json_response(whole)


async def _frames(service: Service, turn: LiveTurn, request_id: str) -> Frames:
    encoder = MessageEncoder(turn.id, turn.request.model)
    async for event in turn.stream.follow():
        if not isinstance(event, Ended):
            for told in encoder.feed(event, _usage_so_far(service, turn)):
                yield _frame(told)
        elif event.status not in FINISH:
            yield _frame(anthropic_error(*failure(event), request_id))
        else:
            usage = message_usage(turn.stored_usage(event), turn.request.keep_seconds)
            for told in encoder.end(event, message_end(event, turn.stop_string), usage, account(turn, event)):
                yield _frame(told)


def _usage_so_far(service: Service, turn: LiveTurn) -> MessageUsage:
    """What the prompt cost, without an answer yet."""
    asked, cached = len(turn.prompt), turn.usage.cached_tokens if turn.usage else 0
    counts = {"input_tokens": asked, "cached_tokens": cached, "output_tokens": 0}
    written = asked - cached if service.hub.caching else 0
    return message_usage({**counts, "cache_write_tokens": written}, turn.request.keep_seconds)


def _frame(event: MessageEvent | AnthropicError) -> str:
    kind = event.type if isinstance(event, AnthropicError) else str(event.__struct_config__.tag)
    return f"event: {kind}\ndata: {wire.encode(event)}"
