"""Who may come in: the Host, the Origin, the key (or what stands for one) and its role, checked before any route runs;
and errors in OpenAI's shape."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware
from structlog.contextvars import bound_contextvars

from chatpager.config import ServerConfig
from chatpager.errors import (
    MAX_SHOWN,
    ChatpagerError,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    StoreError,
    shown,
)
from chatpager.program import program
from chatpager.server.attribution import attribution
from chatpager.server.error_answers import REQUEST_ID, error_response, is_anthropic, retry_hints
from chatpager.server.exposure import is_loopback
from chatpager.server.keyring import ANYBODY, CALLER, Caller
from chatpager.server.logins import FOREIGN_ORIGIN, SENDER, caller_of, is_foreign, is_secure, sender_of
from chatpager.server.service import SERVICE
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.quotas import ASKED, Asked

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PUBLIC = web.AppKey("public", set[str])
"""Names of the routes that need no key: pages and health."""
FOR_ADMINS = web.AppKey("for_admins", set[str])
"""Names of the routes that show what is the whole server's, or change it."""
FOR_READERS = web.AppKey("for_readers", set[str])
"""Names of those that show it and change nothing: for admins, and for who may only look."""
CANCEL_ROUTE = "cancel"
"""Name of the route that ends what runs: of that there is less then, so it is not counted, and a pause lets it be."""
SOCKET_ROUTE = "socket"
"""Name of the route whose requests come in one after the other when it is open."""
ADMIN_PORTS: web.AppKey[set[int]] = web.AppKey("admin_ports")
"""Where there is one, what is for admins is on no other."""
ADMIN_PAGES = {"/admin", "/admin.html"}
EXPOSED = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry"
"""Headers that a page from elsewhere may read."""
WAYS_OUT = ((re.compile("/v1/messages/batches"), "POST", "batches are not built: send each of them to /v1/messages"),)
"""What to do instead of what others have and this server does not: (path, method, words)."""


def errors() -> Middleware:
    """Every error becomes a typed answer; what nobody expected is logged with its request id, and not shown."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = name = "req_" + secrets.token_hex(12)
        try:
            with bound_contextvars(request_id=name, **attribution(request)):
                return await handler(request)
        except ChatpagerError as error:
            if isinstance(error, StoreError):
                log.error("request.not_stored", request_id=request[REQUEST_ID], reason=str(error))
            return error_response(error, request)
        except web.RequestPayloadError:
            mistake = InvalidRequest("the body does not agree with its Content-Encoding or its length")
            return error_response(mistake, request)
        except web.HTTPException as error:
            return error_response(of_aiohttp(error, request), request)
        except Exception as error:
            log_mistake(
                "request.failed", error, request_id=request[REQUEST_ID], method=request.method, route=_route(request)
            )
            return error_response(ChatpagerError(), request)

    return middleware


def not_a_clients_mistake(record: logging.LogRecord) -> bool:
    """For aiohttp's logger, which writes the whole traceback of what a client sent wrong: anybody could fill a disk."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, an error or a stream too: the request's id, and leave for the foreign page that asked."""
    response.headers["x-request-id"] = request[REQUEST_ID]
    if is_anthropic(request):
        response.headers["request-id"] = request[REQUEST_ID]
    hints = {} if "x-should-retry" in response.headers else retry_hints(response.status)
    for name, value in hints.items():
        response.headers.setdefault(name, value)
    if origin := request.get(FOREIGN_ORIGIN):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        response.headers["Vary"] = "Origin"


def of_aiohttp(error: web.HTTPException, request: web.Request) -> ChatpagerError:
    """What aiohttp itself refuses, as ours."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        ways = [way for place, method, way in WAYS_OUT if method == error.method and place.fullmatch(request.path)]
        message = f"{error.method} is not allowed on {shown(request.path)}; allowed: {allowed}"
        return MethodNotAllowed("; ".join([message, *ways]), allowed=allowed)
    if isinstance(error, web.HTTPNotFound):
        there = "GET /openapi.json lists what there is"
        return NotFound(f"there is nothing at {request.method} {shown(request.path)}; {there}")
    if isinstance(error, web.HTTPExpectationFailed):
        return InvalidRequest("Expect: only 100-continue is met")
    return InvalidRequest(error.text or error.reason)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "(none)"


def gate(config: ServerConfig) -> Middleware:
    """Host, Origin, then the key and its role. One list serves browsers' CORS and WebSockets alike."""
    extra = {origin.strip().rstrip("/") for origin in config.allowed_origins.split(",") if origin.strip()}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        at_admins = _is_at_admins(request)
        _check_host(request, config.admin_host if at_admins else config.host, extra)
        origin = _check_origin(request, extra)
        if origin:
            request[FOREIGN_ORIGIN] = origin
            if request.method == "OPTIONS":
                return _preflight(request)
        route = request.match_info.route.name
        if request.app[ADMIN_PORTS] and not at_admins and _is_for_admins(request, route):
            raise web.HTTPNotFound
        if route not in request.app[PUBLIC]:
            request[SENDER] = sender = sender_of(request)
            request[CALLER] = caller = await caller_of(request.app, sender)
            if caller is ANYBODY and is_foreign(request):
                raise Forbidden("what is here is not for pages from elsewhere")
            _check_role(caller, request.app, route)
            _count(request, caller, route)
        return await handler(request)

    return middleware


@web.middleware
async def still_open(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The body may have come long after its head: who was paused meanwhile begins nothing with it, and where it was
    erased nothing comes back."""
    caller = request.get(CALLER)
    if caller and _is_limited(request, request.match_info.route.name):
        request.app[SERVICE].hub.quotas.check_open(caller.tenant)
    return await handler(request)


def _count(request: web.Request, caller: Caller, route: str | None) -> None:
    """Raises RateLimited, TenantPaused."""
    app, is_socket = request.app, route == SOCKET_ROUTE
    ASKED.set(Asked(caller.key, counted=not is_socket))
    if not _is_limited(request, route):
        return
    try:
        app[SERVICE].hub.quotas.request(caller.tenant)
    except RateLimited as error:
        app[SERVICE].metrics.refused(error)
        raise


def _is_limited(request: web.Request, route: str | None) -> bool:
    """What is about the whole server is not: whoever mends it must come in."""
    return route != CANCEL_ROUTE and not _is_for_admins(request, route)


def _is_at_admins(request: web.Request) -> bool:
    """Whether it came in by the port of their own."""
    name = request.get_extra_info("sockname")
    return isinstance(name, tuple) and name[1] in request.app[ADMIN_PORTS]


def _is_for_admins(request: web.Request, route: str | None) -> bool:
    is_page = route == "page" and request.path in ADMIN_PAGES
    return is_page or route in request.app[FOR_ADMINS] or route in request.app[FOR_READERS]


def _check_host(request: web.Request, at: str, extra: set[str]) -> None:
    """``at``: the address that listens. On loopback any page could reach us under a name of its own that resolves here
    (DNS rebinding)."""
    if not is_loopback(at):
        return
    host = _split(f"//{request.host}").hostname or ""
    if not is_loopback(host) and not any(host == urlsplit(o).hostname for o in extra):
        raise Forbidden(f"Host {shown(host)} is not allowed here; to allow it: {_to_allow(f'http://{request.host}')}")


def _check_origin(request: web.Request, extra: set[str]) -> str | None:
    """The foreign origin that was let in, or None. Programs send no Origin, and are let in."""
    origin = request.headers.get("Origin")
    if origin is None or _is_own(_split(origin), request):
        return None
    if origin.rstrip("/") not in extra:
        raise Forbidden(f"Origin {shown(origin)} is not allowed here; to allow it: {_to_allow(origin)}")
    return origin


def _to_allow(origin: str) -> str:
    return f"--allowed-origins {origin if len(origin) <= MAX_SHOWN else 'ORIGIN'}"


def _is_own(origin: SplitResult, request: web.Request) -> bool:
    """Whether the page is this server's. What a proxy took with TLS is no page's that came without: somebody on the way
    could have written that one."""
    plain = origin.scheme == "http" and not is_secure(request)
    return origin.netloc == request.host and (plain or origin.scheme == "https")


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise Forbidden(f"{shown(address)} is not an address") from None


def _preflight(request: web.Request) -> web.Response:
    """A page that may come in may send any header: none of them is trusted more for it."""
    wanted = request.headers.get("Access-Control-Request-Headers", "authorization, content-type")
    return web.Response(
        status=204,
        headers={"Access-Control-Allow-Headers": wanted, "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE"},
    )


def _check_role(caller: Caller, app: web.Application, route: str | None) -> None:
    if caller.role == "admin":
        return
    if caller.role == "read-only" and route not in app[FOR_READERS]:
        raise Forbidden("this key may look at the server and nothing else: its role is read-only")
    if caller.role != "read-only" and (route in app[FOR_ADMINS] or route in app[FOR_READERS]):
        raise Forbidden(
            "this is about the whole server: it is for the server's own key, or one that "
            f"`{program()} keys create --role admin` made"
        )
