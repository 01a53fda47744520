"""Who may come in: the Host, the Origin, the key and its role, checked before any route runs; and errors in OpenAI's
shape."""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from chatpager.config import ServerConfig
from chatpager.errors import (
    ChatpagerError,
    ConfigError,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestTooLarge,
    StoreError,
    UpgradeRequired,
)
from chatpager.program import program
from chatpager.server import wire
from chatpager.server.error_bodies import error_body
from chatpager.server.keyring import CALLER, KEYRING, Caller, digest_sent
from chatpager.sessions.mistakes import log_mistake

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PUBLIC = web.AppKey("public", set[str])
"""Names of the routes that need no key: pages and health."""
FOR_ADMINS = web.AppKey("for_admins", set[str])
"""Names of the routes that show what is the whole server's."""
RETRY_SECONDS = 1.0
"""When to try again what the database did not take."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
REQUEST_ID = web.RequestKey("request_id", str)
FOREIGN_ORIGIN = web.RequestKey("foreign_origin", str)
"""Of a page from elsewhere that may come in; same-origin requests and programs have none."""


def is_loopback(host: str) -> bool:
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_exposed(config: ServerConfig) -> bool:
    """Whether other machines reach the server, and it has no key of its own, nor the word that it needs none."""
    return not (is_loopback(config.host) or config.api_key or config.insecure)


def exposure(config: ServerConfig) -> ConfigError:
    """Why a server ``is_exposed`` where no key is stored either."""
    return ConfigError(
        "host",
        "other machines could reach this address, so set --api-key (or CHATPAGER_API_KEY), "
        f"make a key with {program()} keys create, or say --insecure if that is meant",
        value=config.host,
    )


def error_response(error: ChatpagerError) -> web.Response:
    status, body = error_body(error)
    headers = {}
    if isinstance(error, Overloaded | StoreError):
        seconds = error.retry_after if isinstance(error, Overloaded) else RETRY_SECONDS
        headers["retry-after"] = str(max(1, round(seconds)))
        headers["retry-after-ms"] = str(round(1000 * seconds))
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    if isinstance(error, UpgradeRequired):
        headers["upgrade"] = "websocket"
    return web.Response(
        text=wire.encode(wire.ErrorAnswer(body)), status=status, content_type="application/json", headers=headers
    )


def errors() -> Middleware:
    """Every error becomes a typed answer; what nobody expected is logged with its request id, and not shown."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = "req_" + secrets.token_hex(12)
        try:
            return await handler(request)
        except ChatpagerError as error:
            if isinstance(error, StoreError):
                log.error("request.not_stored", request_id=request[REQUEST_ID], reason=str(error))
            return error_response(error)
        except web.RequestPayloadError:
            return error_response(InvalidRequest("the body does not agree with its Content-Encoding or its length"))
        except web.HTTPException as error:
            return error_response(_of_aiohttp(error, request))
        except Exception as error:
            log_mistake(
                "request.failed", error, request_id=request[REQUEST_ID], method=request.method, route=_route(request)
            )
            return error_response(ChatpagerError())

    return middleware


def not_a_clients_mistake(record: logging.LogRecord) -> bool:
    """For aiohttp's logger, which writes the whole traceback of what a client sent wrong: anybody could fill a disk."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, an error or a stream too: the request's id, and leave for the foreign page that asked."""
    response.headers["x-request-id"] = request[REQUEST_ID]
    if origin := request.get(FOREIGN_ORIGIN):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "x-request-id, retry-after, retry-after-ms"
        response.headers["Vary"] = "Origin"


def _of_aiohttp(error: web.HTTPException, request: web.Request) -> ChatpagerError:
    """What aiohttp itself refuses, as ours."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestTooLarge(f"the body is larger than {request.client_max_size} bytes")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{error.method} is not allowed on {request.path}; allowed: {allowed}", allowed=allowed)
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"there is nothing at {request.method} {request.path}")
    return InvalidRequest(error.text or error.reason)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "(none)"


def gate(config: ServerConfig) -> Middleware:
    """Host, Origin, then the key and its role. One list serves browsers' CORS and WebSockets alike."""
    extra = {origin.strip().rstrip("/") for origin in config.allowed_origins.split(",") if origin.strip()}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, config, extra)
        origin = _check_origin(request, extra)
        if origin:
            request[FOREIGN_ORIGIN] = origin
            if request.method == "OPTIONS":
                return _preflight(request)
        route = request.match_info.route.name
        if route not in request.app[PUBLIC]:
            request[CALLER] = caller = await request.app[KEYRING].caller(digest_sent(request))
            if route in request.app[FOR_ADMINS]:
                _check_role(caller)
        return await handler(request)

    return middleware


def _check_host(request: web.Request, config: ServerConfig, extra: set[str]) -> None:
    """On loopback any page could reach us under a name of its own that resolves here (DNS rebinding)."""
    if not is_loopback(config.host):
        return
    host = _split(f"//{request.host}").hostname or ""
    if not is_loopback(host) and not any(host == urlsplit(o).hostname for o in extra):
        raise Forbidden(f"Host {host!r} is not allowed here; to allow it: --allowed-origins http://{request.host}")


def _check_origin(request: web.Request, extra: set[str]) -> str | None:
    """The foreign origin that was let in, or None. Programs send no Origin, and are let in."""
    origin = request.headers.get("Origin")
    if origin is None or _split(origin).netloc == request.host:
        return None
    if origin.rstrip("/") not in extra:
        raise Forbidden(f"Origin {origin!r} is not allowed here; to allow it: --allowed-origins {origin}")
    return origin


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise Forbidden(f"{address!r} is not an address") from None


def _preflight(request: web.Request) -> web.Response:
    """A page that may come in may send any header: none of them is trusted more for it."""
    wanted = request.headers.get("Access-Control-Request-Headers", "authorization, content-type")
    return web.Response(
        status=204,
        headers={"Access-Control-Allow-Headers": wanted, "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE"},
    )


def _check_role(caller: Caller) -> None:
    if caller.role != "admin":
        raise Forbidden(
            "this shows what is the whole server's: it is for the server's own key, or one that "
            "`chatpager keys create --role admin` made"
        )
