"""``/v1/chat/completions``: the whole conversation in, chunks or one object out."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatpager.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    EngineError,
    EngineStopped,
    InvalidRequest,
    StoreError,
)
from chatpager.server import wire
from chatpager.server.encode_chat import FINISH, ChunkEncoder, completion
from chatpager.server.encode_response import INTERRUPTED
from chatpager.server.requests import ChatCreate, chat_request, decode
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, TENANT, begin, delete_turn, reader_gone
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn

FAULTS = {e.code: e for e in (InvalidRequest, ContextLengthExceeded, CapacityExceeded, EngineStopped, StoreError)}
"""What may end a turn that has begun, beside the engine's own mistakes."""


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    wanted, body = chat_request(decode(await request.read()), service.served, TENANT)
    turn = await begin(service, wanted)
    try:
        if body.stream:
            return await send_events(request, _frames(turn, body), _error_frame)
        ended = await turn.stream.end()
        if ended.status not in FINISH:
            status, error = _failure(ended)
            return json_response(wire.ErrorAnswer(error), status=status)
        usage = turn.stored_usage(ended)
        return json_response(completion(turn.id, turn.created_at, wanted.model, ended, usage, _ours(turn, ended)))
    finally:
        reader_gone(service, turn, told=False)


async def delete(request: web.Request) -> web.Response:
    """Forget a completion: no later conversation finds its words."""
    completion_id = request.match_info["id"]
    await delete_turn(request.app[SERVICE], completion_id, "chat")
    return json_response(wire.Deleted(id=completion_id, object="chat.completion.deleted"))


async def _frames(turn: LiveTurn, body: ChatCreate) -> Frames:
    include_usage = bool((body.stream_options or {}).get("include_usage"))
    encoder = ChunkEncoder(turn.id, turn.created_at, turn.request.model, include_usage=include_usage)
    async for event in turn.stream.follow():
        if isinstance(event, Ended):
            if event.status not in FINISH:
                yield _error_frame(_failure(event)[1])
                return
            chunks = encoder.feed(event, turn.stored_usage(event), _ours(turn, event))
        else:
            chunks = encoder.feed(event)
        for chunk in chunks:
            yield f"data: {wire.encode(chunk)}"
    yield "data: [DONE]"


def _failure(ended: Ended) -> tuple[int, wire.ErrorBody]:
    """The status and the error of an answer that did not come to a good end."""
    code, message = ended.error_code or INTERRUPTED.code, ended.error_message or INTERRUPTED.message
    fault = FAULTS.get(code, EngineStopped if code == INTERRUPTED.code else EngineError)
    return fault.status, wire.ErrorBody(message=message, type=fault.type, param=None, code=code)


def _error_frame(error: wire.ErrorBody) -> str:
    return f"data: {wire.encode(wire.ErrorAnswer(error))}"


def _ours(turn: LiveTurn, ended: Ended) -> dict[str, Any]:
    ours: dict[str, Any] = {"state": ended.status, **ended.facts()}
    if warnings := turn.request.parameters.get("warnings"):
        ours["warnings"] = warnings
    return ours
