"""The aiohttp application: routes, the order in which things open, and the order in which they close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.log import server_logger

from chatpager.config import ServerConfig
from chatpager.errors import UpgradeRequired
from chatpager.server import (
    routes_cache,
    routes_chat,
    routes_conversations,
    routes_ops,
    routes_prefixes,
    routes_responses,
    routes_tokens,
)
from chatpager.server.access import (
    FOR_ADMINS,
    PUBLIC,
    add_headers,
    errors,
    gate,
    is_exposed,
    not_a_clients_mistake,
)
from chatpager.server.keyring import KEYRING, Keyring
from chatpager.server.patience import whole_body
from chatpager.server.service import SERVICE, Service
from chatpager.server.websocket import CONNECTIONS, responses_socket

log = structlog.get_logger(__name__)


async def responses_get(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses is the WebSocket."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise UpgradeRequired("GET /v1/responses is a WebSocket: send Upgrade: websocket, or POST the request")
    return await responses_socket(request)


def make_app(config: ServerConfig, open_service: Callable[[], Awaitable[Service]]) -> web.Application:
    """``open_service`` is called at start-up; what it opens is closed here."""
    app = web.Application(middlewares=[errors(), gate(config), whole_body], client_max_size=config.max_message_bytes)
    server_logger.addFilter(not_a_clients_mistake)
    app[CONNECTIONS] = set()
    app[routes_ops.ASSETS] = routes_ops.read_assets()
    app[PUBLIC] = {"page", "health", "live", "ready"}
    app[FOR_ADMINS] = {"metrics", "cache_events", "publish", "prefixes", "prefix", "withdraw"}
    app.add_routes(_routes())
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_service(config, open_service))
    app.on_shutdown.append(drain)
    return app


def _routes() -> list[web.RouteDef]:
    r, c, o = routes_responses, routes_conversations, routes_ops
    return [
        web.get("/v1/responses", responses_get, allow_head=False),
        web.post("/v1/responses", r.create),
        web.get("/v1/responses/{id}", r.retrieve),
        web.delete("/v1/responses/{id}", r.delete),
        web.post("/v1/responses/input_tokens", routes_tokens.input_tokens),
        web.post("/v1/responses/{id}/cancel", r.cancel),
        web.get("/v1/responses/{id}/input_items", c.input_items),
        web.post("/v1/chat/completions", routes_chat.create),
        web.delete("/v1/chat/completions/{id}", routes_chat.delete),
        web.post("/v1/conversations", c.create),
        web.get("/v1/conversations", c.index),
        web.get("/v1/conversations/{id}", c.retrieve),
        web.post("/v1/conversations/{id}", c.update),
        web.delete("/v1/conversations/{id}", c.delete),
        web.post("/v1/conversations/{id}/items", c.add_items),
        web.get("/v1/conversations/{id}/items", c.items),
        web.get("/v1/conversations/{id}/items/{item}", c.item),
        web.get("/v1/conversations/{id}/export", c.export),
        web.get("/v1/conversations/{id}/cache", routes_cache.cache),
        web.put("/v1/conversations/{id}/pin", routes_cache.pin),
        web.delete("/v1/conversations/{id}/pin", routes_cache.unpin),
        web.post("/v1/conversations/{id}/fork", routes_cache.fork),
        web.post("/v1/conversations/{id}/rewind", routes_cache.rewind),
        web.post("/v1/conversations/{id}/compact", routes_cache.compact),
        web.post("/v1/conversations/{id}/prefetch", routes_cache.prefetch),
        web.post("/v1/conversations/{id}/hint", routes_cache.hint),
        web.get("/v1/cache/top", routes_cache.top),
        web.get("/v1/cache/events", routes_cache.events, name="cache_events"),
        web.get("/v1/cache/explain", routes_cache.explain),
        web.post("/v1/prefixes", routes_prefixes.create, name="publish"),
        web.get("/v1/prefixes", routes_prefixes.index, name="prefixes"),
        web.get("/v1/prefixes/{label}", routes_prefixes.retrieve, name="prefix"),
        web.delete("/v1/prefixes/{label}", routes_prefixes.delete, name="withdraw"),
        web.post("/tokenize", routes_tokens.tokenize),
        web.post("/detokenize", routes_tokens.detokenize),
        web.get("/v1/models", o.models),
        web.get("/v1/models/{id}", o.model),
        web.get("/health", o.health, name="health"),
        web.get("/health/live", o.live, name="live"),
        web.get("/health/ready", o.health, name="ready"),
        web.get("/version", o.version),
        web.get("/metrics", o.metrics, name="metrics"),
        web.get("/{path:(?!v1/).*}", o.page, name="page"),
    ]


def _service(
    config: ServerConfig, open_service: Callable[[], Awaitable[Service]]
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(app: web.Application) -> AsyncIterator[None]:
        app[SERVICE] = service = await open_service()
        app[KEYRING] = Keyring(config.api_key, service.store, keyless=not is_exposed(config))
        watching = asyncio.ensure_future(service.metrics.watch_loop())
        yield
        watching.cancel()
        await service.store.close()

    return context


async def drain(app: web.Application) -> None:
    """Refuse what is new, give running turns time to end, end the others as interrupted, then send the readers home.

    To be awaited before the runner's ``cleanup``: until then the server listens, so that it can say that it drains, and
    clients are heard; aiohttp's own shutdown closes both doors before anything else. Without that it comes with it.
    It also comes before aiohttp waits for its handlers: they follow turns, so they return once the turns have ended.
    """
    service = app[SERVICE]
    if service.draining:
        return
    service.draining = True
    await service.hub.drain(service.config.drain_seconds)
    await service.hub.close()
    await asyncio.gather(*(connection.close() for connection in app[CONNECTIONS]), return_exceptions=True)
