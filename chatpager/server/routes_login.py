"""``/v1/login`` and ``/v1/ws-tickets``: a page comes in, asks whether it is in, and leaves."""

from __future__ import annotations

import msgspec
from aiohttp import web

from chatpager.errors import Forbidden, InvalidAPIKey, InvalidRequest
from chatpager.server.keyring import KEYRING, Caller
from chatpager.server.logins import (
    FOREIGN_ORIGIN,
    FROM_A_PAGE,
    LOGIN_SECONDS,
    LOGINS,
    SENDER,
    TICKET_SECONDS,
    caller_of,
    cookie_name,
    is_secure,
    sender_of,
)
from chatpager.server.reading import decoded, read
from chatpager.server.routes_responses import json_response
from chatpager.store import digest_of

KEPT_BY_NOBODY = {"Cache-Control": "no-store"}


class Login(msgspec.Struct, frozen=True, kw_only=True):
    key: str


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """``required``: the server asks for a key. ``tenant`` and ``role`` are null for who is not in; ``expires_in``, in
    seconds, is null for who is in without a login."""

    object: str = "login"
    required: bool
    tenant: str | None = None
    role: str | None = None
    expires_in: float | None = None


class WsTicket(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "ws_ticket"
    ticket: str
    expires_in: float


async def login(request: web.Request) -> web.Response:
    """A cookie for a key. A page from elsewhere has none to send us: it sends its key."""
    _refuse_foreign(request)
    key = read(await decoded(await request.read()), Login)[0].key
    if not key:
        raise InvalidRequest("key is empty", param="key")
    digest = digest_of(key)
    caller = await request.app[KEYRING].caller(digest)
    token = request.app[LOGINS].begin(digest, caller.role)
    answer = await _told(request, caller, LOGIN_SECONDS)
    answer.set_cookie(
        cookie_name(request),
        token,
        max_age=int(LOGIN_SECONDS),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="Strict",
    )
    return answer


async def logged_in(request: web.Request) -> web.Response:
    """Whether who asks is in; nobody is refused here."""
    sender = sender_of(request)
    try:
        caller = await caller_of(request.app, sender)
    except InvalidAPIKey:
        return await _told(request, None, None)
    left = None if sender.login is None else request.app[LOGINS].seconds_left(sender.login)
    return await _told(request, caller, left)


async def logout(request: web.Request) -> web.Response:
    """The cookie opens nothing any more, wherever else it is known, and the sockets that it opened end."""
    _refuse_foreign(request)
    if FROM_A_PAGE not in request.headers:
        raise Forbidden(f"send {FROM_A_PAGE}: 1, so that no other page can do this")
    name = cookie_name(request)
    if token := request.cookies.get(name):
        request.app[LOGINS].end(token)
    answer = await _told(request, None, None)
    answer.del_cookie(name, path="/", secure=is_secure(request), httponly=True, samesite="Strict")
    return answer


async def ws_ticket(request: web.Request) -> web.Response:
    """What opens one WebSocket, ``?ticket=``, for a page that cannot send its key with it."""
    ticket = request.app[LOGINS].ticket(request[SENDER], request.headers.get("Origin", ""))
    return json_response(WsTicket(ticket=ticket, expires_in=TICKET_SECONDS), headers=KEPT_BY_NOBODY)


def _refuse_foreign(request: web.Request) -> None:
    if request.get(FOREIGN_ORIGIN):
        raise Forbidden("only our own page logs in: send the key with each request, Authorization: Bearer KEY")


async def _told(request: web.Request, caller: Caller | None, seconds: float | None) -> web.Response:
    required = not await request.app[KEYRING].open()
    told = LoggedIn(required=required, expires_in=None if seconds is None else round(seconds, 3))
    if caller is not None:
        told = msgspec.structs.replace(told, tenant=caller.tenant, role=caller.role)
    return json_response(told, headers=KEPT_BY_NOBODY)
