"""How a page in a browser comes in. Our own page sends its key once and has a cookie for it, which scripts cannot read
and other pages cannot use; a page from elsewhere, which has its key in hand but cannot send headers with a WebSocket,
has a ticket for one. Neither is the key. They live in this process alone, and end with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web

from chatpager.errors import Forbidden, InvalidAPIKey
from chatpager.server.keyring import KEYRING, NO_KEY, Caller, digest_sent
from chatpager.store import Role

LOGIN_SECONDS = 12 * 3600.0
IDLE_SECONDS = 3600.0
"""Who sees the whole server is logged out when nothing comes for so long."""
TICKET_SECONDS = 30.0
MAX_LOGINS = 4096
MAX_OF_A_KEY = 32
"""Where there are more, the oldest end."""
MAX_TICKETS_OF_A_KEY = 256
SOCKET = "/v1/responses"
"""What a ticket opens."""
FROM_A_PAGE = "X-Chatpager-Page"
"""A header that no foreign page can send without asking first: what changes something by a cookie must have it."""
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class Sender(NamedTuple):
    """The SHA-256 of a key (``NO_KEY``: none), and of the login by which it came, where it came by one."""

    key: bytes
    login: bytes | None = None


SENDER = web.RequestKey("sender", Sender)
FOREIGN_ORIGIN = web.RequestKey("foreign_origin", str)
"""Of a page from elsewhere that may come in; same-origin requests and programs have none."""


@dataclass(slots=True)
class _Login:
    key: bytes
    until: float
    idle_seconds: float
    idle_until: float


class _Ticket(NamedTuple):
    sender: Sender
    origin: str
    until: float


class Logins:
    """Tokens are 256 random bits, known here by their SHA-256."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._logins: OrderedDict[bytes, _Login] = OrderedDict()
        self._tickets: OrderedDict[bytes, _Ticket] = OrderedDict()

    def begin(self, key: bytes, role: Role) -> str:
        """A token for the key with this SHA-256."""
        now, idle = self.clock(), LOGIN_SECONDS if role == "user" else IDLE_SECONDS
        for name in [name for name, login in self._logins.items() if not _lives(login, now)]:
            del self._logins[name]
        same = [name for name, login in self._logins.items() if hmac.compare_digest(login.key, key)]
        for name in same[: len(same) - MAX_OF_A_KEY + 1]:
            del self._logins[name]
        if len(self._logins) >= MAX_LOGINS:
            self._logins.popitem(last=False)
        token = secrets.token_urlsafe(32)
        self._logins[_name(token)] = _Login(key, now + LOGIN_SECONDS, idle, now + idle)
        return token

    def used(self, token: str) -> Sender | None:
        """Whose the token is; None where it is nobody's, or its login has ended."""
        login = _name(token)
        return Sender(self._logins[login].key, login) if self.lives(login) else None

    def lives(self, login: bytes, *, used: bool = True) -> bool:
        """Whether it has not ended; ``used``: somebody comes by it, who is not idle."""
        found, now = self._logins.get(login), self.clock()
        if found is None or not _lives(found, now):
            return False
        if used:
            found.idle_until = now + found.idle_seconds
        return True

    def seconds_left(self, login: bytes) -> float:
        """If it is used on; 0 where it has ended."""
        found = self._logins.get(login)
        return max(0.0, found.until - self.clock()) if found else 0.0

    def end(self, token: str) -> None:
        self._logins.pop(_name(token), None)

    def ticket(self, sender: Sender, origin: str) -> str:
        """For one WebSocket of a page of this origin, soon."""
        same = [name for name, one in self._tickets.items() if hmac.compare_digest(one.sender.key, sender.key)]
        for name in same[: len(same) - MAX_TICKETS_OF_A_KEY + 1]:
            del self._tickets[name]
        if len(self._tickets) >= MAX_LOGINS:
            self._tickets.popitem(last=False)
        ticket = secrets.token_urlsafe(32)
        self._tickets[_name(ticket)] = _Ticket(sender, origin, self.clock() + TICKET_SECONDS)
        return ticket

    def take(self, ticket: str, origin: str) -> Sender:
        """Who had it made. Whatever comes of it, it opens nothing a second time.

        Raises:
            InvalidAPIKey: it was used, is too old, or was made for another page.
        """
        found = self._tickets.pop(_name(ticket), None)
        if found is None or found.until <= self.clock() or found.origin != origin:
            raise InvalidAPIKey(
                f"the ticket was used, is older than {TICKET_SECONDS:g} s, or is another page's; POST /v1/ws-tickets "
                "gives a new one"
            )
        return found.sender


LOGINS = web.AppKey("logins", Logins)


def _lives(login: _Login, now: float) -> bool:
    return now < min(login.until, login.idle_until)


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def sender_of(request: web.Request) -> Sender:
    """Who sends a request whose Origin may come in: by the key in its headers, or else a WebSocket's ticket, or else
    its cookie.

    Raises:
        InvalidAPIKey: a ticket that opens nothing.
        Forbidden: it would change something by a cookie, and does not say that a page of ours sends it.
    """
    key = digest_sent(request)
    if not hmac.compare_digest(key, NO_KEY):
        return Sender(key)
    upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    opens = upgrade and request.method == "GET" and request.path == SOCKET
    if opens and (ticket := request.query.get("ticket")) is not None:
        return request.app[LOGINS].take(ticket, request.headers.get("Origin", ""))
    token = request.cookies.get(cookie_name(request))
    sender = request.app[LOGINS].used(token) if token else None
    if sender is None or not _may_use_a_cookie(request, upgrade):
        return Sender(NO_KEY)
    if request.method not in SAFE_METHODS and FROM_A_PAGE not in request.headers:
        raise Forbidden(f"who is logged in by a cookie sends {FROM_A_PAGE}: 1 with what changes something")
    return sender


def _may_use_a_cookie(request: web.Request, upgrade: bool) -> bool:
    """Whether no page from elsewhere can have sent it. A browser's WebSocket always has an Origin."""
    if "Origin" in request.headers:
        return FOREIGN_ORIGIN not in request
    return not upgrade and not is_foreign(request)


def is_foreign(request: web.Request) -> bool:
    """Whether a page from elsewhere sent what only reads, as for an image: it has no Origin, and then newer browsers
    tell where it comes from."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    return "Origin" not in request.headers and site not in ("same-origin", "none")


def is_secure(request: web.Request) -> bool:
    """Whether it came with TLS, as far as the proxy that took that says."""
    return request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def cookie_name(request: web.Request) -> str:
    """Cookies do not tell ports apart, and several servers may be on one machine."""
    _, _, port = request.host.rpartition(":")
    return f"chatpager_{port}" if port.isascii() and port.isdigit() else "chatpager"


async def caller_of(app: web.Application, sender: Sender, *, used: bool = True) -> Caller:
    """``used``: it comes now, and is not only looked after.

    Raises:
    InvalidAPIKey: the key is nobody's or was revoked, or the login has ended.
    StoreError: it cannot be looked up now.
    """
    if sender.login is not None and not app[LOGINS].lives(sender.login, used=used):
        raise InvalidAPIKey("the login has ended; log in again: POST /v1/login")
    return await app[KEYRING].caller(sender.key)
