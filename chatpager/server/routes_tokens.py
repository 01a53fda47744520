"""Counting and looking at tokens: ``/v1/responses/input_tokens`` as OpenAI has it, ``/tokenize`` and ``/detokenize`` as
vLLM does. Nothing is computed and nothing is stored."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from chatpager.errors import InputTooLong, InvalidRequest
from chatpager.server import wire
from chatpager.server.chat_requests import chat_request
from chatpager.server.input_items import Json, check_text
from chatpager.server.keyring import tenant_of
from chatpager.server.reading import decoded, made_of, read
from chatpager.server.requests import check_model, response_request
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE

Id = Annotated[int, msgspec.Meta(ge=0)]


class Tokenize(msgspec.Struct, frozen=True, kw_only=True):
    """Plain text, or messages as they ask the model."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Json] | None = None
    tools: list[Json] | None = None
    return_token_strs: bool = False


class Detokenize(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[Id]
    model: str | None = None


async def input_tokens(request: web.Request) -> web.Response:
    """The tokens of the prompt that this request would ask the model with, whether they fit or not."""
    service = request.app[SERVICE]
    raw = await decoded(await request.read())
    wanted = await made_of(raw, response_request, service.served, tenant_of(request))
    size, told = len(await service.hub.prompt(wanted)), wanted.parameters.get("warnings")
    return json_response(wire.InputTokens(input_tokens=size, chatpager={"warnings": told} if told else None))


async def tokenize(request: web.Request) -> web.Response:
    service, tenant = request.app[SERVICE], tenant_of(request)
    body, told = await made_of(await decoded(await request.read()), read, Tokenize)
    check_model(body.model, service.served)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", param="prompt")
    try:
        if body.messages is not None:
            raw: Json = {"messages": body.messages, "tools": body.tools}
            asked, _ = await made_of(raw, chat_request, service.served, tenant)
            ids = await service.hub.prompt(asked)
        else:
            ids = await service.hub.prompting.text(tenant, check_text(body.prompt or "", "prompt"))
    except InputTooLong as error:
        alone = "prompt" if body.messages is None else "messages"
        raise InputTooLong(error.size, error.limit, alone=alone) from error
    texts = await service.hub.prompting.texts([[id] for id in ids]) if body.return_token_strs else None
    return json_response(
        wire.Tokens(
            count=len(ids),
            max_model_len=service.hub.max_model_len,
            tokens=list(ids),
            token_strs=texts,
            chatpager={"warnings": told} if told else None,
        )
    )


async def detokenize(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body, told = await made_of(await decoded(await request.read()), read, Detokenize)
    check_model(body.model, service.served)
    size, most = service.hub.num_tokens, service.hub.max_model_len
    if len(body.tokens) > most:
        raise InvalidRequest(f"tokens: {len(body.tokens)} of them, and the context holds {most}", param="tokens")
    if (largest := max(body.tokens, default=0)) >= size:
        place = f"tokens[{body.tokens.index(largest)}]"
        raise InvalidRequest(f"{place} is {largest}, outside 0..{size - 1}", param=place)
    (text,) = await service.hub.prompting.texts([body.tokens])
    return json_response({"prompt": text, **({"chatpager": {"warnings": told}} if told else {})})
