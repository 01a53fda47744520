"""What an address may ask for: the names that its route declares, each once, and of those that take only some values
one of these. What is misspelt would be passed over in silence otherwise."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from aiohttp import web
from aiohttp.typedefs import Handler

from chatpager.errors import InvalidRequest, shown
from chatpager.server.openapi_routes import INCLUDE, OPERATIONS


@web.middleware
async def known_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses an address that asks a route for what it does not have. Of a route that declares nothing, nothing is
    said: Anthropic's client sends ``beta=true`` everywhere."""
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    operation = OPERATIONS.get((method, resource.canonical)) if resource else None
    known = operation.query if operation else {}
    if known:
        if unknown := request.query.keys() - known.keys():
            first = min(unknown)
            raise InvalidRequest(f"{shown(first)} is unknown here; known: {', '.join(sorted(known))}", param=first)
        for name in request.query:
            _check(name, known[name], request.query.getall(name))
    return await handler(request)


def _check(name: str, kind: Any, values: list[str]) -> None:
    if len(values) > 1 and name not in INCLUDE:
        raise InvalidRequest(f"{name} stands there twice", param=name)
    choices = ("true", "false") if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()
    if choices and not set(values) <= set(choices):
        raise InvalidRequest(f"{name} is one of {', '.join(choices)}", param=name)
