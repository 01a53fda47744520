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
    key_watch,
    routes_admin,
    routes_admin_acts,
    routes_admin_cache,
    routes_audit,
    routes_cache,
    routes_chat,
    routes_completions,
    routes_conversations,
    routes_login,
    routes_messages,
    routes_ops,
    routes_prefixes,
    routes_replicas,
    routes_responses,
    routes_reveal,
    routes_tenants,
    routes_tokens,
)
from chatpager.server.access import (
    ADMIN_PORTS,
    CANCEL_ROUTE,
    FOR_ADMINS,
    FOR_READERS,
    PUBLIC,
    SOCKET_ROUTE,
    add_headers,
    errors,
    gate,
    not_a_clients_mistake,
    still_open,
)
from chatpager.server.admin_snapshot import Looking
from chatpager.server.arriving import ARRIVING
from chatpager.server.block_mirror import BlockMirror
from chatpager.server.exposure import is_exposed
from chatpager.server.history_keeper import HistoryKeeper
from chatpager.server.keyring import KEYRING, Keyring
from chatpager.server.logins import LOGINS, Logins
from chatpager.server.loop_watch import LoopWatch
from chatpager.server.openapi import ROUTES, Routes, openapi
from chatpager.server.patience import whole_body
from chatpager.server.queries import known_query
from chatpager.server.replaying import Replays
from chatpager.server.service import SERVICE, Service
from chatpager.server.storage_watch import StorageWatch
from chatpager.server.websocket import CONNECTIONS, PLACES, REPLAYS, responses_socket
from chatpager.sessions.fair_places import FairPlaces

log = structlog.get_logger(__name__)


async def responses_get(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses is the WebSocket."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise UpgradeRequired("GET /v1/responses is a WebSocket: send Upgrade: websocket, or POST the request")
    return await responses_socket(request)


def make_app(config: ServerConfig, open_service: Callable[[], Awaitable[Service]]) -> web.Application:
    """``open_service`` is called at start-up; what it opens is closed here."""
    first = [errors(), gate(config), known_query, whole_body, still_open]
    app = web.Application(middlewares=first, client_max_size=config.max_message_bytes)
    server_logger.addFilter(not_a_clients_mistake)
    app[CONNECTIONS], app[ADMIN_PORTS] = set(), set()
    app[REPLAYS] = Replays()
    app[PLACES] = FairPlaces(config.max_sockets, config.max_sockets_per_tenant, called="sockets are open")
    app[ARRIVING] = FairPlaces(config.max_pending_bytes, called="bytes of requests are under way")
    app[routes_ops.ASSETS] = routes_ops.read_assets()
    app[LOGINS] = Logins()
    app[routes_tenants.CHANGING], app[routes_tenants.ERASING] = asyncio.Lock(), []
    public = {"page", "health", "live", "ready", "openapi", "login", "logged_in", "logout"}
    admins = {"audit", "metrics", "cache_events", "publish", "prefixes", "prefix", "withdraw"}
    acts = {"admin_pin", "admin_unpin", "admin_cancel", "admin_drain", "admin_reveal"}
    acts |= {"admin_limit", "admin_limit_key", "admin_pause", "admin_resume", "admin_erase"}
    acts |= {"admin_drain_replica", "admin_resume_replica"}
    looks = {"snapshot", "live", "history", "tables", "blocks", "block", "leases", "timeline", "settings", "tenants"}
    looks |= {"replicas"}
    admins, readers = admins | acts, {f"admin_{look}" for look in looks}
    app[PUBLIC], app[FOR_ADMINS], app[FOR_READERS] = public, admins, readers
    app[routes_admin.LOOKING], app[routes_admin_cache.MIRROR] = Looking(), BlockMirror()
    app[routes_admin_acts.DRAIN], app[routes_admin_acts.DRAINING] = begin_drain, []
    rows = tuple((route.method, route.path, route.kwargs.get("name")) for route in routes())
    app[ROUTES] = Routes(rows, frozenset(public), frozenset(admins | readers))
    app.add_routes(routes())
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_service(config, open_service))
    app.on_shutdown.append(drain)
    return app


def routes() -> list[web.RouteDef]:
    """Every route; what each takes and gives, ``openapi_routes`` says."""
    r, c, o = routes_responses, routes_conversations, routes_ops
    a, whose, acts, t = routes_admin, routes_admin_cache, routes_admin_acts, routes_tenants
    return [
        web.get("/v1/responses", responses_get, name=SOCKET_ROUTE, allow_head=False),
        web.post("/v1/responses", r.create),
        web.get("/v1/responses/{id}", r.retrieve),
        web.delete("/v1/responses/{id}", r.delete),
        web.post("/v1/responses/input_tokens", routes_tokens.input_tokens),
        web.post("/v1/responses/{id}/cancel", r.cancel, name=CANCEL_ROUTE),
        web.get("/v1/responses/{id}/input_items", c.input_items),
        web.post("/v1/chat/completions", routes_chat.create),
        web.delete("/v1/chat/completions/{id}", routes_chat.delete),
        web.post("/v1/completions", routes_completions.create),
        web.post("/v1/messages", routes_messages.create),
        web.post("/v1/messages/count_tokens", routes_messages.count_tokens),
        web.delete("/v1/messages/{id}", routes_messages.delete),
        web.post("/v1/conversations", c.create),
        web.get("/v1/conversations", c.index),
        web.get("/v1/conversations/{id}", c.retrieve),
        web.post("/v1/conversations/{id}", c.update),
        web.delete("/v1/conversations/{id}", c.delete),
        web.post("/v1/conversations/{id}/items", c.add_items),
        web.get("/v1/conversations/{id}/items", c.items),
        web.get("/v1/conversations/{id}/items/{item}", c.item),
        web.delete("/v1/conversations/{id}/items/{item}", c.delete_item),
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
        web.get("/v1/admin/snapshot", a.snapshot, name="admin_snapshot"),
        web.get("/v1/admin/live", a.live, name="admin_live", allow_head=False),
        web.get("/v1/admin/history", a.history, name="admin_history"),
        web.get("/v1/admin/tables", whose.tables, name="admin_tables"),
        web.get("/v1/admin/blocks", whose.blocks, name="admin_blocks"),
        web.get("/v1/admin/blocks/{id}", whose.block, name="admin_block"),
        web.get("/v1/admin/leases", whose.leases, name="admin_leases"),
        web.put("/v1/admin/sessions/{tenant}/{id}/pin", whose.pin, name="admin_pin"),
        web.delete("/v1/admin/sessions/{tenant}/{id}/pin", whose.unpin, name="admin_unpin"),
        web.get("/v1/admin/sessions/{tenant}/{id}/turns", acts.timeline, name="admin_timeline"),
        web.post("/v1/admin/sessions/{tenant}/{id}/turns/{turn}/reveal", routes_reveal.reveal, name="admin_reveal"),
        web.post("/v1/admin/requests/{id}/cancel", acts.cancel, name="admin_cancel"),
        web.get("/v1/admin/settings", acts.settings, name="admin_settings"),
        web.post("/v1/admin/drain", acts.drain, name="admin_drain"),
        web.get("/v1/admin/replicas", routes_replicas.index, name="admin_replicas"),
        web.post("/v1/admin/replicas/{id}/drain", routes_replicas.drain, name="admin_drain_replica"),
        web.post("/v1/admin/replicas/{id}/resume", routes_replicas.resume, name="admin_resume_replica"),
        web.get("/v1/admin/tenants", t.index, name="admin_tenants"),
        web.put("/v1/admin/tenants/{tenant}/limits", t.limit, name="admin_limit"),
        web.put("/v1/admin/keys/{id}/limits", t.limit_key, name="admin_limit_key"),
        web.post("/v1/admin/tenants/{tenant}/pause", t.pause, name="admin_pause"),
        web.post("/v1/admin/tenants/{tenant}/resume", t.resume, name="admin_resume"),
        web.delete("/v1/admin/tenants/{tenant}", t.erase, name="admin_erase"),
        web.post("/tokenize", routes_tokens.tokenize),
        web.post("/detokenize", routes_tokens.detokenize),
        web.get("/v1/admin/audit", routes_audit.index, name="audit"),
        web.post("/v1/login", routes_login.login, name="login"),
        web.get("/v1/login", routes_login.logged_in, name="logged_in"),
        web.delete("/v1/login", routes_login.logout, name="logout"),
        web.post("/v1/ws-tickets", routes_login.ws_ticket),
        web.get("/v1/models", o.models),
        web.get("/v1/models/{id}", o.model),
        web.get("/health", o.health, name="health"),
        web.get("/health/live", o.live, name="live"),
        web.get("/health/ready", o.health, name="ready"),
        web.get("/version", o.version),
        web.get("/openapi.json", openapi, name="openapi"),
        web.get("/metrics", o.metrics, name="metrics"),
        web.get("/{path:(?!v1/).*}", o.page, name="page"),
    ]


def _service(
    config: ServerConfig, open_service: Callable[[], Awaitable[Service]]
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(app: web.Application) -> AsyncIterator[None]:
        app[SERVICE] = service = await open_service()
        app[KEYRING] = Keyring(config.api_key, service.store, keyless=not is_exposed(config))
        for limits in await service.store.tenants.limits():
            service.hub.quotas.change(limits)
        history = HistoryKeeper(service.metrics.ledger, service.store, service.hub.wall)
        await history.load()
        late = LoopWatch(service.metrics.loop_was_late)
        await service.store.keep_reserve()
        storage = StorageWatch(service.store, asyncio.get_running_loop().time)
        works = (late.run(), key_watch.watch(app), history.run(), storage.run())
        tasks = [asyncio.ensure_future(work) for work in works]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await history.keep()
        await service.store.close()

    return context


async def drain(app: web.Application) -> None:
    """Refuse what is new, give running turns time to end, end the others as interrupted, then send the readers home.

    To be awaited before the runner's ``cleanup``: until then the server listens, so that it can say that it drains, and
    clients are heard; aiohttp's own shutdown closes both doors before anything else. Without that it comes with it.
    It also comes before aiohttp waits for its handlers: they follow turns, so they return once the turns have ended.
    """
    was_begun, draining = bool(app[routes_admin_acts.DRAINING]), begin_drain(app)
    if not was_begun:
        await routes_audit.drained(app[SERVICE])
    await draining


def begin_drain(app: web.Application) -> asyncio.Future[None]:
    """The server's one drain, whoever asked for it first: who comes later waits for the same."""
    begun = app[routes_admin_acts.DRAINING]
    if not begun:
        app[SERVICE].draining = True
        begun.append(asyncio.ensure_future(_drain(app)))
    return begun[0]


async def _drain(app: web.Application) -> None:
    service = app[SERVICE]
    await service.hub.drain(service.config.drain_seconds)
    await service.hub.close()
    await asyncio.gather(*(connection.close() for connection in app[CONNECTIONS]), return_exceptions=True)
