"""``/v1/chat/completions``: the whole conversation in, chunks or one object out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import web

from chatpager.server import wire
from chatpager.server.chat_requests import chat_request
from chatpager.server.encode_chat import FINISH, ChunkEncoder, completion, usage_of_all
from chatpager.server.ends import account, error_frame, failure
from chatpager.server.keyring import tenant_of
from chatpager.server.once import HEADER, begin_keyed
from chatpager.server.reading import decoded, made_of
from chatpager.server.request_bodies import ChatCreate
from chatpager.server.routes_responses import json_of, json_response
from chatpager.server.service import SERVICE, delete_turn
from chatpager.server.sse import Frames, send_events
from chatpager.server.wire_chat import ChatCompletion
from chatpager.sessions.logprobs import logprobs_of
from chatpager.sessions.stream import Ended, follow_all
from chatpager.sessions.turn import LiveTurn


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw = await decoded(await request.read())
    wanted, body = await made_of(raw, chat_request, service.served, tenant_of(request))
    turns = await begin_keyed(request, raw, [wanted])
    with service.readers.reading(*turns, told=HEADER in request.headers):
        if body.stream:
            return await send_events(request, _frames(turns, body), error_frame)
        return await _whole(turns)


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
            status, error = failure(end)
            return json_response(wire.ErrorAnswer(error), status=status)
    first, usage = turns[0], usage_of_all([t.stored_usage(e) for t, e in zip(turns, ended, strict=True)])
    ours = account(first, ended[0])
    told = partial(completion, first.id, first.created_at, first.request.model, ended, usage, ours)
    if first.request.params.logprobs is None:
        return json_response(told())
    return json_of(await asyncio.to_thread(_with_logprobs, turns, told))


def _with_logprobs(turns: Sequence[LiveTurn], told: Callable[..., ChatCompletion]) -> bytes:
    """Of 64 choices they are millions of objects."""
    return wire.encoded_by("choices", told([logprobs_of(turn.stream.events) for turn in turns]))


async def _frames(turns: Sequence[LiveTurn], body: ChatCreate) -> Frames:
    first = turns[0]
    encoder = ChunkEncoder(first.id, first.created_at, first.request.model, tells_usage=body.tells_usage)
    usages: dict[int, dict[str, int]] = {}
    async for index, event in follow_all([turn.stream for turn in turns]):
        ours = None
        if isinstance(event, Ended):
            if event.status not in FINISH:
                yield error_frame(failure(event)[1])
                return
            usages[index] = turns[index].stored_usage(event)
            ours = account(turns[index], event)
        for chunk in encoder.feed(event, index, ours):
            yield f"data: {wire.encode(chunk)}"
    if body.tells_usage:
        yield f"data: {wire.encode(encoder.usage(usage_of_all([usages[i] for i in sorted(usages)])))}"
    yield "data: [DONE]"
