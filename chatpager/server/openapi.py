"""``GET /openapi.json``: the API described in OpenAPI 3.1, made of the wire's structs and ``openapi_routes``."""

from __future__ import annotations

import asyncio
import hashlib
import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from chatpager import __version__
from chatpager.server.openapi_routes import OPERATIONS, Operation
from chatpager.server.openapi_schemas import Schemas
from chatpager.server.reading import MAX_KEY

Json = dict[str, Any]

NO_KEY: list[Json] = []
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
REQUEST_ID = {"x-request-id": {"description": "The request's name, for the log", "schema": {"type": "string"}}}
IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the request: sent again with the same body it gets the answer that it began before",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
DESCRIPTION = (
    "A streaming chat server that owns the conversation. Fields that are not listed are passed over and, unless they "
    "ask for nothing here, named in an answer's `chatpager.warnings`; a few that are not built are refused. "
    "The server asks for a key only where it has one."
)


class Described(NamedTuple):
    body: bytes
    etag: str


class Routes(NamedTuple):
    """The method, the path and the name of each; names of those that need no key, and of those that need an admin's."""

    rows: tuple[tuple[str, str, str | None], ...]
    public: frozenset[str]
    admins: frozenset[str]


ROUTES = web.AppKey("routes", Routes)


async def openapi(request: web.Request) -> web.Response:
    described = await asyncio.to_thread(describe, request.app[ROUTES])  # the first time it takes long
    headers = {"ETag": described.etag, "Cache-Control": "no-cache"}
    if described.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=described.body, content_type="application/json", headers=headers)


@lru_cache(maxsize=1)
def describe(routes: Routes) -> Described:
    body = msgspec.json.encode(document(routes))
    return Described(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def document(routes: Routes) -> Json:
    described = {(method, plain(path)): name for method, path, name in routes.rows}
    schemas, paths = Schemas(), dict[str, Json]()
    for (method, path), name in described.items():
        if (method, path) not in OPERATIONS:
            continue
        told = _operation(OPERATIONS[method, path], method, path, schemas)
        if name in routes.public:
            told["security"] = NO_KEY
        if name in routes.admins:
            told["description"] = "For admins only."
        paths.setdefault(path, {})[method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatpager", "version": __version__, "description": DESCRIPTION},
        "security": [{name: []} for name in SECURITY],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": SECURITY},
    }


def plain(path: str) -> str:
    """A route's path without the patterns of its parameters."""
    return re.sub(r"\{(\w+):.*\}", r"{\1}", path)


def _operation(operation: Operation, method: str, path: str, schemas: Schemas) -> Json:
    in_path = re.findall(r"\{(\w+)\}", path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in in_path]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schemas.of(kind)}
        for name, kind in operation.query.items()
    ]
    if operation.keyed or (method == "POST" and operation.events is not None):
        parameters.append(IDEMPOTENCY_KEY)
    words = re.findall(r"\w+", path)
    told: Json = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": _responses(operation, schemas),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body)}}
        told["requestBody"] = {"required": operation.body_required, "content": content}
    return told


def _responses(operation: Operation, schemas: Schemas) -> Json:
    content: Json = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": schemas.of(operation.answer)}
    if operation.events is not None:
        content["text/event-stream"] = {"schema": schemas.of(operation.events)}
    for media, kind in operation.also.items():
        content[media] = {"schema": schemas.of(kind)}
    answers: Json = {status: {"description": words} for status, words in operation.statuses.items()}
    if content:
        answers["200"] = {"description": operation.summary, "headers": REQUEST_ID, "content": content}
    for status, kind in operation.fails.items():
        body = {"application/json": {"schema": schemas.of(kind)}}
        answers[status] = {"description": "Not ready", "headers": REQUEST_ID, "content": body}
    refusal = {"application/json": {"schema": schemas.of(operation.error)}}
    answers["default"] = {"description": "An error", "headers": REQUEST_ID, "content": refusal}
    return answers
