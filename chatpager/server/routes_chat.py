"""``/v1/chat/completions``: the whole conversation in, chunks or one object out."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatpager.errors import EngineError
from chatpager.server import wire
from chatpager.server.encode_chat import FINISH, ChunkEncoder, completion
from chatpager.server.protocol import error_body
from chatpager.server.requests import ChatCreate, chat_request, decode
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, TENANT, begin, reader_gone
from chatpager.server.sse import Frames, send_events
from chatpager.sessions.stream import Ended
from chatpager.sessions.turn import LiveTurn


class AnswerFailed(EngineError):
    """The answer ended with an error of the server's; ``code`` is the turn's."""

    def __init__(self, ended: Ended) -> None:
        self.code = ended.error_code or "engine_error"  # type: ignore[misc]
        super().__init__(ended.error_message or f"the answer was {ended.status}")


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    wanted, body = chat_request(decode(await request.read()), service.served, TENANT)
    turn = await begin(service, wanted)
    try:
        if body.stream:
            return await send_events(request, _frames(turn, body), _error_frame)
        ended = await turn.stream.end()
        if ended.status not in FINISH:
            raise AnswerFailed(ended)
        usage = turn.stored_usage(ended)
        return json_response(completion(turn.id, turn.created_at, wanted.model, ended, usage, _ours(turn, ended)))
    finally:
        reader_gone(service, turn, told=False)


async def _frames(turn: LiveTurn, body: ChatCreate) -> Frames:
    include_usage = bool((body.stream_options or {}).get("include_usage"))
    encoder = ChunkEncoder(turn.id, turn.created_at, turn.request.model, include_usage=include_usage)
    async for event in turn.stream.follow():
        if isinstance(event, Ended):
            if event.status not in FINISH:
                yield _error_frame(error_body(AnswerFailed(event))[1])
                return
            chunks = encoder.feed(event, turn.stored_usage(event), _ours(turn, event))
        else:
            chunks = encoder.feed(event)
        for chunk in chunks:
            yield f"data: {wire.encode(chunk)}"
    yield "data: [DONE]"


def _error_frame(error: wire.ErrorBody) -> str:
    return f"data: {wire.encode(wire.ErrorAnswer(error))}"


def _ours(turn: LiveTurn, ended: Ended) -> dict[str, Any]:
    ours: dict[str, Any] = {"state": ended.status, **ended.facts()}
    if warnings := turn.request.parameters.get("warnings"):
        ours["warnings"] = warnings
    return ours
