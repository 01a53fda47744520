"""``/v1/chat/completions``: the whole conversation in, chunks or one object out."""

from __future__ import annotations

from collections.abc import Sequence
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
from chatpager.server.encode_chat import FINISH, ChunkEncoder, completion, usage_of_all
from chatpager.server.encode_response import INTERRUPTED
from chatpager.server.keyring import tenant_of
from chatpager.server.reading import decode
from chatpager.server.requests import ChatCreate, chat_request
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, begin, delete_turn, reader_gone
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended, follow_all
from chatpager.sessions.turn import LiveTurn

FAULTS = {e.code: e for e in (InvalidRequest, ContextLengthExceeded, CapacityExceeded, EngineStopped, StoreError)}
"""What may end a turn that has begun, beside the engine's own mistakes."""


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    wanted, body = chat_request(decode(await request.read()), service.served, tenant_of(request))
    turns = await begin(service, wanted)
    try:
        if body.stream:
            return await send_events(request, _frames(turns, body), _error_frame)
        return await _whole(turns)
    finally:
        for turn in turns:
            reader_gone(service, turn, told=False)


async def delete(request: web.Request) -> web.Response:
    """Forget a completion: no later conversation finds its words."""
    completion_id = request.match_info["id"]
    await delete_turn(request.app[SERVICE], tenant_of(request), completion_id, "chat")
    return json_response(wire.Deleted(id=completion_id, object="chat.completion.deleted"))


async def _whole(turns: Sequence[LiveTurn]) -> web.Response:
    """One object, once every choice has ended. The first that went wrong is the answer then."""
    ended = [await turn.stream.end() for turn in turns]
    for end in ended:
        if end.status not in FINISH:
            status, error = _failure(end)
            return json_response(wire.ErrorAnswer(error), status=status)
    first, usage = turns[0], usage_of_all([t.stored_usage(e) for t, e in zip(turns, ended, strict=True)])
    ours = _ours(first, ended[0])
    return json_response(completion(first.id, first.created_at, first.request.model, ended, usage, ours))


async def _frames(turns: Sequence[LiveTurn], body: ChatCreate) -> Frames:
    first = turns[0]
    encoder = ChunkEncoder(first.id, first.created_at, first.request.model)
    usages: dict[int, dict[str, int]] = {}
    async for index, event in follow_all([turn.stream for turn in turns]):
        ours = None
        if isinstance(event, Ended):
            if event.status not in FINISH:
                yield _error_frame(_failure(event)[1])
                return
            usages[index] = turns[index].stored_usage(event)
            ours = _ours(turns[index], event)
        for chunk in encoder.feed(event, index, ours):
            yield f"data: {wire.encode(chunk)}"
    if (body.stream_options or {}).get("include_usage"):
        yield f"data: {wire.encode(encoder.usage(usage_of_all([usages[i] for i in sorted(usages)])))}"
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
