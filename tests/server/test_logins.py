"""How a page comes in without its key in an address: by a cookie of its own server, or a ticket for one WebSocket; and
that neither serves any other page."""

from http.cookies import SimpleCookie

import pytest
from websockets.exceptions import InvalidStatus

from chatpager.server import logins
from chatpager.server.keyring import CACHE_SECONDS, KEYRING, NO_KEY
from chatpager.server.logins import IDLE_SECONDS, LOGIN_SECONDS, TICKET_SECONDS, Logins, Sender
from chatpager.store import digest_of, new_key
from tests.server.test_access import BEARER, FRIEND
from tests.serving import GREEDY

PAGE = {"X-Chatpager-Page": "1"}
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}


@pytest.fixture
async def locked(serve):
    async with serve(api_key="secret", allowed_origins=FRIEND) as running:
        yield running


async def log_in(server, key="secret", **headers):
    """What our own page sends from now on."""
    answer = await server.post("/v1/login", {"key": key}, headers={"Origin": server.url, **headers})
    assert answer.status == 200, answer.body
    [cookie] = SimpleCookie(answer.headers["Set-Cookie"]).values()
    return cookie, {"Cookie": f"{cookie.key}={cookie.value}", "Origin": server.url, **PAGE}


async def is_in(server, headers):
    return (await server.get("/v1/models", headers=headers)).status == 200


# -- the cookie -------------------------------------------------------------------------------------------------------


async def test_our_own_page_logs_in_once_and_is_in(locked):
    cookie, page = await log_in(locked)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/", "")
    assert int(cookie["max-age"]) == LOGIN_SECONDS
    assert "secret" not in cookie.value and len(cookie.value) >= 43
    assert (await locked.post("/v1/responses", {"input": "a", **GREEDY}, headers=page)).status == 200
    assert await is_in(locked, {"Cookie": page["Cookie"]}), "what a page only reads has no Origin"
    told = (await locked.get("/v1/login", headers=page)).json
    assert 0 < told.pop("expires_in") <= LOGIN_SECONDS
    assert told == {"object": "login", "required": True, "tenant": "default", "role": "admin"}
    del page["X-Chatpager-Page"]
    async with locked.socket(additional_headers={"Cookie": page["Cookie"]}, origin=locked.url) as socket:
        await socket.create("Hello")
        assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_behind_tls_the_cookie_stays_there(locked):
    safe = {"Origin": locked.url.replace("http", "https"), "X-Forwarded-Proto": "https"}
    cookie, _ = await log_in(locked, **safe)
    assert cookie["secure"] is True


async def test_two_servers_of_one_machine_have_cookies_of_their_own(locked):
    cookie, _ = await log_in(locked)
    assert cookie.key == f"chatpager_{locked.port}"
    named, _ = await log_in(locked, Host="localhost", Origin="http://localhost")
    assert named.key == "chatpager"


@pytest.mark.parametrize("key", ["", "secre", "secret2", "cp_x", "\ud83d\ude00"])
async def test_a_wrong_key_is_no_login(locked, key):
    answer = await locked.post("/v1/login", {"key": key})
    assert answer.refusal == ((401, "invalid_api_key", None) if key else (400, "invalid_request", "key"))
    assert "Set-Cookie" not in answer.headers


async def test_who_is_not_in_is_told_so_and_not_refused(locked):
    out = {"object": "login", "required": True, "tenant": None, "role": None, "expires_in": None}
    for headers in ({}, {"Cookie": f"chatpager_{locked.port}=x"}, {"Authorization": "Bearer x"}):
        answer = await locked.get("/v1/login", headers=headers)
        assert (answer.status, answer.json) == (200, out)
        assert answer.headers["Cache-Control"] == "no-store"
    assert (await locked.get("/v1/login", headers=BEARER)).json["role"] == "admin"


async def test_a_server_without_keys_says_that_it_needs_none(server):
    told = (await server.get("/v1/login")).json
    assert told == {"object": "login", "required": False, "tenant": "default", "role": "admin", "expires_in": None}
    assert (await server.post("/v1/login", {"key": "whatever"})).json["required"] is False


async def test_a_cookie_changes_nothing_without_the_word_of_a_page(locked):
    _, page = await log_in(locked)
    del page["X-Chatpager-Page"]
    for method, path in (("POST", "/v1/conversations"), ("DELETE", "/v1/conversations/x"), ("PUT", "/v1/x")):
        answer = await locked.call(method, path, headers=page)
        assert answer.refusal == (403, "forbidden", None) and "X-Chatpager-Page" in answer.error["message"]
    assert (await locked.get("/v1/conversations", headers=page)).json["data"] == []
    assert (await locked.post("/v1/conversations", {}, headers=page | BEARER)).status == 200


FOREIGN = [
    {"Origin": FRIEND}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "nonsense"},
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_cookie_serves_no_page_from_elsewhere(locked, origin):
    """Not even one that may come in with a key: on one machine cookies go to every port."""
    _, page = await log_in(locked)
    foreign = {"Cookie": page["Cookie"], **PAGE, **origin}
    refused = 401 if origin.get("Origin") in (None, FRIEND) else 403
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/conversations"), ("GET", "/metrics")):
        assert (await locked.call(method, path, headers=foreign)).status == refused, (method, path)
    assert (await locked.get("/v1/responses", headers=foreign | UPGRADE)).status == refused
    if refused == 401:
        assert (await locked.get("/v1/models", headers=foreign | BEARER)).status == 200


async def test_a_socket_by_a_cookie_has_an_origin(locked):
    _, page = await log_in(locked)
    del page["Origin"]
    assert (await locked.get("/v1/responses", headers=page | UPGRADE)).status == 401


async def test_a_page_from_elsewhere_does_not_log_anybody_in_or_out(locked):
    _, page = await log_in(locked)
    foreign = page | {"Origin": FRIEND}
    assert (await locked.post("/v1/login", {"key": "secret"}, headers=foreign)).refusal[0] == 403
    assert (await locked.delete("/v1/login", headers=foreign)).status == 403
    assert (await locked.delete("/v1/login", headers={"Cookie": page["Cookie"]})).status == 403
    assert await is_in(locked, page)


async def test_logging_out_ends_the_cookie_and_the_socket_it_opened(locked):
    (_, page), (_, other) = await log_in(locked), await log_in(locked)
    async with locked.socket(additional_headers={"Cookie": page["Cookie"]}, origin=locked.url) as socket:
        answer = await locked.delete("/v1/login", headers=page)
        [cookie] = SimpleCookie(answer.headers["Set-Cookie"]).values()
        assert (answer.status, cookie.value, cookie["max-age"], cookie["samesite"]) == (200, "", "0", "Strict")
        assert not await is_in(locked, page) and await is_in(locked, other)
        await socket.send(type="response.create", input="a")
        told = await socket.receive()
        assert (told["error"]["code"], "log in again" in told["error"]["message"]) == ("invalid_api_key", True)
        await socket.ws.wait_closed()
        assert socket.ws.close_code == 1008
    assert (await locked.delete("/v1/login", headers=page)).status == 200


async def test_a_login_ends_with_its_key(serve):
    async with serve() as server:
        made, key = new_key("ann", "", "user", 1)
        await server.service.store.keys.create(made)
        server.app[KEYRING].clock = lambda: now
        now = 1e6
        _, page = await log_in(server, key)
        assert (await server.get("/v1/login", headers=page)).json["tenant"] == "ann"
        await server.service.store.keys.revoke(made.id, now=2)
        now += CACHE_SECONDS
        assert not await is_in(server, page)


# -- the ticket -------------------------------------------------------------------------------------------------------


async def ticket_of(server, **headers):
    answer = await server.post("/v1/ws-tickets", headers=BEARER | headers)
    assert answer.json["expires_in"] == TICKET_SECONDS and answer.headers["Cache-Control"] == "no-store"
    return answer.json["ticket"]


async def test_a_ticket_opens_one_socket_of_the_page_that_asked(locked):
    ticket = await ticket_of(locked, Origin=FRIEND)
    async with locked.socket(query=f"?ticket={ticket}", origin=FRIEND) as socket:
        await socket.create("Hello")
        assert (await socket.rest())[-1]["type"] == "response.incomplete"
    with pytest.raises(InvalidStatus) as refused:
        async with locked.socket(query=f"?ticket={ticket}", origin=FRIEND):
            pass
    assert refused.value.response.status_code == 401
    assert (await locked.post("/v1/ws-tickets")).status == 401


async def test_a_ticket_opens_nothing_else(locked):
    ticket = await ticket_of(locked)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/responses"), ("GET", "/v1/responses")):
        assert (await locked.call(method, f"{path}?ticket={ticket}")).status == 401
    for method, path in (("GET", "/v1/models"), ("DELETE", "/v1/conversations/x"), ("POST", "/v1/responses")):
        told = await locked.call(method, f"{path}?ticket={ticket}", headers={"Upgrade": "websocket", "Origin": FRIEND})
        assert told.status == 401, path
    assert (await locked.get(f"/v1/responses?ticket={ticket}", headers=UPGRADE | {"Origin": FRIEND})).status != 101
    other = await locked.get(f"/v1/responses?ticket={ticket}", headers=UPGRADE | {"Origin": FRIEND})
    assert other.refusal == (401, "invalid_api_key", None) and ticket not in other.error["message"]
    assert (await locked.get(f"/v1/responses?ticket={ticket}", headers=UPGRADE)).status == 401, "it was tried"


async def test_a_ticket_is_of_the_login_that_asked_for_it(locked):
    _, page = await log_in(locked)
    ticket = (await locked.post("/v1/ws-tickets", headers=page)).json["ticket"]
    await locked.delete("/v1/login", headers=page)
    query = f"?ticket={ticket}"
    refused = await locked.get(f"/v1/responses{query}", headers=UPGRADE | {"Origin": locked.url})
    assert refused.refusal == (401, "invalid_api_key", None)


# -- time and room ----------------------------------------------------------------------------------------------------


@pytest.fixture
def held():
    made = Logins(lambda: made.now)
    made.now = 100.0
    return made


def test_a_login_ends_after_hours_and_an_admins_where_nobody_uses_it(held):
    user, admin = held.begin(b"u", "user"), held.begin(b"a", "admin")
    login = held.used(admin).login
    for _ in range(int(LOGIN_SECONDS / IDLE_SECONDS) * 2 - 1):
        held.now += IDLE_SECONDS / 2
        assert held.lives(login) and held.used(user)
    held.now = 100.0 + LOGIN_SECONDS
    assert held.used(user) is held.used(admin) is None
    idle = held.begin(b"a", "admin")
    login = held.used(idle).login
    held.now += IDLE_SECONDS / 2
    assert held.lives(login, used=False), "a look at it is no use of it"
    held.now += IDLE_SECONDS / 2
    assert held.used(idle) is None and held.seconds_left(login) > 0
    held.end(idle)
    assert held.seconds_left(login) == 0


def test_a_ticket_grows_old(held):
    one, two = held.ticket(Sender(b"k"), ""), held.ticket(Sender(b"k"), "")
    held.now += TICKET_SECONDS - 0.1
    assert held.take(one, "") == Sender(b"k")
    held.now += 0.1
    with pytest.raises(logins.InvalidAPIKey):
        held.take(two, "")


def test_they_take_no_more_than_their_room(held, monkeypatch):
    monkeypatch.setattr(logins, "MAX_LOGINS", 3)
    monkeypatch.setattr(logins, "MAX_OF_A_KEY", 2)
    first, *others = [held.begin(b"a", "user") for _ in range(3)]
    assert held.used(first) is None and all(held.used(token) for token in others)
    more = [held.begin(key, "user") for key in (b"b", b"c")]
    assert held.used(others[0]) is None and all(held.used(token) for token in (others[1], *more))
    held.now += LOGIN_SECONDS
    held.begin(b"d", "user")
    assert len(held._logins) == 1
    tickets = [held.ticket(Sender(NO_KEY), "") for _ in range(4)]
    with pytest.raises(logins.InvalidAPIKey):
        held.take(tickets[0], "")
    assert held.take(tickets[3], "") == Sender(NO_KEY)
    monkeypatch.setattr(logins, "MAX_LOGINS", 30)
    monkeypatch.setattr(logins, "MAX_TICKETS_OF_A_KEY", 2)
    another, *many = [held.ticket(Sender(b"k"), ""), *(held.ticket(Sender(b"l"), "") for _ in range(5))]
    assert held.take(another, "") == Sender(b"k"), "nobody pushes out another's"
    with pytest.raises(logins.InvalidAPIKey):
        held.take(many[2], "")
    assert held.take(many[3], "") == held.take(many[4], "") == Sender(b"l")


def test_a_token_is_kept_nowhere(held):
    token, ticket = held.begin(digest_of("k"), "user"), held.ticket(Sender(b"k"), "")
    kept = repr(vars(held))
    assert token not in kept and ticket not in kept
