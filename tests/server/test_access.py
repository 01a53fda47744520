"""Who may come in, and how everybody else is told."""

import asyncio
import logging
import math

import pytest

from chatpager.config import ServerConfig
from chatpager.server.exposure import exposure, is_exposed, is_loopback
from chatpager.server.keyring import KEYRING
from tests.serving import DEADLINE, GREEDY

BEARER = {"Authorization": "Bearer secret"}
FRIEND = "https://friend.example:8443"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host):
    assert is_loopback(host)
    assert not is_exposed(ServerConfig(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "localhost.example.com", ""])
def test_any_other_address_needs_a_key_or_a_word(host):
    assert not is_loopback(host)
    assert is_exposed(ServerConfig(host=host))
    for way_out in ("--api-key", "keys create", "--insecure"):
        assert way_out in str(exposure(ServerConfig(host=host)))
    assert not is_exposed(ServerConfig(host=host, api_key="secret"))
    assert not is_exposed(ServerConfig(host=host, insecure=True))


# -- the key ----------------------------------------------------------------------------------------------------------


async def test_the_key_opens_every_route(serve):
    async with serve(api_key="secret") as server:
        assert (await server.post("/v1/responses", {"input": "a", **GREEDY}, headers=BEARER)).status == 200
        assert (await server.get("/v1/models", headers={"Authorization": "bearer secret"})).status == 200
        async with server.socket(additional_headers=BEARER) as socket:
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"


WRONG = [
    None, "", "secret", "Bearer", "Bearer secre", "Bearer secret2", "Basic secret", "Bearer Secret", "Bearer sécret",
]  # fmt: skip


@pytest.mark.parametrize("header", WRONG)
async def test_without_it_nothing_is_told(serve, header):
    headers = {} if header is None else {"Authorization": header}
    async with serve(api_key="secret") as server:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/responses"), ("GET", "/metrics"), ("GET", "/v1/x")):
            answer = await server.call(method, path, headers=headers)
            assert answer.refusal == (401, "invalid_api_key", None)
            assert answer.error["type"] == "authentication_error"
        assert not server.hub.turns


async def test_a_key_that_is_no_text(serve):
    async with serve(api_key="secret") as server:
        answer = await raw(server, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe")
        assert answer.startswith(b"HTTP/1.1 401") and b"invalid_api_key" in answer


async def test_health_and_pages_are_public(serve):
    async with serve(api_key="secret") as server:
        for path in ("/", "/health", "/health/live", "/health/ready"):
            assert (await server.get(path)).status == 200


async def test_a_socket_without_the_key_is_refused_before_it_opens(serve):
    async with serve(api_key="secret") as server:
        answer = await server.get(
            "/v1/responses", headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        )
        assert answer.refusal == (401, "invalid_api_key", None)


async def raw(server, head, body=b"", port=None):
    """The answer's head and body to a request of these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port or server.port)
    writer.write(head + b"\r\nConnection: close\r\n\r\n" + body)
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


# -- Host and Origin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1234", "127.0.0.1", "LOCALHOST", "[::1]:8000", "friend.example"]
)
async def test_hosts_that_are_ours(serve, host):
    async with serve(allowed_origins=f"{FRIEND}/, http://other.example") as server:
        assert (await server.get("/v1/models", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[::1", "", "192.168.1.1"]
)
async def test_a_name_that_was_bound_to_us_from_outside_is_refused(server, host):
    for path in ("/", "/v1/models", "/health"):
        answer = await raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}".encode())
        assert answer.startswith(b"HTTP/1.1 403") and b'"code":"forbidden"' in answer
    if host == "evil.example:8000":
        assert b"--allowed-origins http://evil.example:8000" in answer


async def test_beyond_loopback_the_key_guards_and_any_name_will_do(serve):
    async with serve(host="0.0.0.0", api_key="secret") as server:
        assert (await server.get("/v1/models", headers={"Host": "any.example", **BEARER})).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "https://friend.example", ""])
async def test_foreign_pages_are_refused(serve, origin):
    async with serve(allowed_origins=FRIEND) as server:
        answer = await server.post("/v1/responses", {"input": "a"}, headers={"Origin": origin})
        assert answer.refusal == (403, "forbidden", None)
        assert "Access-Control-Allow-Origin" not in answer.headers
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": origin}
        assert (await server.get("/v1/responses", headers=upgrade)).status == 403
        assert (await server.call("OPTIONS", "/v1/responses", headers={"Origin": origin})).status == 403
        assert not server.hub.turns


async def test_a_foreign_page_sees_nothing_of_a_server_without_a_key_either(server):
    """An image or a script of a page elsewhere is asked for without an Origin: whether it loads, and how long that
    takes, would tell."""
    for site in ("cross-site", "same-site"):
        for path in ("/v1/conversations", "/v1/models", "/metrics"):
            assert (await server.get(path, headers={"Sec-Fetch-Site": site})).refusal == (403, "forbidden", None)
        for path in ("/", "/health"):
            assert (await server.get(path, headers={"Sec-Fetch-Site": site})).status == 200, "a link leads here"
    for site in ("same-origin", "none"):
        assert (await server.get("/v1/models", headers={"Sec-Fetch-Site": site})).status == 200


async def test_our_own_page_is_at_home(server):
    answer = await server.get("/v1/models", headers={"Origin": server.url})
    assert answer.status == 200 and "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("scheme", "proxied", "status"),
    [
        ("http", None, 200), ("https", None, 200), ("http", "http", 200), ("https", "http", 200),
        ("https", "https", 200), ("http", "https", 403), ("http", "HTTPS", 403), ("ftp", None, 403),
        ("chrome-extension", None, 403), ("ws", None, 403),
    ],
)  # fmt: skip
async def test_our_own_page_is_one_that_came_as_safely_as_we_are_reached(server, scheme, proxied, status):
    """A proxy that takes TLS says so."""
    headers = {"Origin": f"{scheme}://127.0.0.1:{server.port}"} | ({"X-Forwarded-Proto": proxied} if proxied else {})
    assert (await server.get("/v1/models", headers=headers)).status == status


async def test_a_friend_s_page_may_read_everything_errors_and_streams_too(serve):
    headers = {"Origin": FRIEND}
    async with serve(allowed_origins=FRIEND, api_key="secret") as server:
        answers = [
            await server.get("/v1/models", headers=headers | BEARER),
            await server.get("/v1/models", headers=headers),
            await server.get("/v1/responses/resp_x", headers=headers | BEARER),
            await server.get("/nowhere", headers=headers | BEARER),
            await server.post("/v1/responses", {"input": "a", **GREEDY, "stream": True}, headers=headers | BEARER),
        ]
        assert [answer.status for answer in answers] == [200, 401, 404, 404, 200]
        for answer in answers:
            assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
            assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]
            assert answer.headers["Vary"] == "Origin"


async def test_a_preflight_needs_no_key(serve):
    async with serve(allowed_origins=FRIEND, api_key="secret") as server:
        asked = {"Origin": FRIEND, "Access-Control-Request-Headers": "authorization, x-stainless-os"}
        answer = await server.call("OPTIONS", "/v1/responses", headers=asked)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
        allowed = set(answer.headers["Access-Control-Allow-Methods"].split(", "))
        assert allowed == {route.method for route in server.app.router.routes()} - {"HEAD", "OPTIONS", "*"}
        plain = await server.call("OPTIONS", "/v1/responses", headers={"Origin": FRIEND})
        assert plain.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
        assert (await server.call("OPTIONS", "/v1/responses")).status == 401


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_what_is_not_there(server):
    assert (await server.get("/v1/nothing")).refusal == (404, "not_found", None)
    assert (await server.post("/v1/engines", {})).refusal == (404, "not_found", None)
    answer = await server.call("PUT", "/v1/conversations/conv_1")
    assert answer.refusal == (405, "method_not_allowed", None)
    assert "allowed: DELETE, GET, HEAD, POST" in answer.error["message"]
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, POST"


async def test_what_is_allowed_where_the_socket_is(server):
    """Every method that is named there is taken, and no other."""
    for method in ("PUT", "HEAD", "DELETE"):
        answer = await server.call(method, "/v1/responses")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
    plain = await server.get("/v1/responses")
    assert plain.refusal == (426, "upgrade_required", None)
    assert plain.headers["Upgrade"] == "websocket"
    assert "POST" in plain.error["message"]


POST = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"
MISTAKES = {
    "no gzip": (POST + b"Content-Encoding: gzip\r\nContent-Length: 8", b"nonsense", b"400"),
    "no gzip, and no route": (
        b"PUT /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 1",
        b"x",
        b"400",
    ),
    "no chunks": (POST + b"Transfer-Encoding: chunked", b"nonsense\r\n", b"400"),
    "no header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nno header", b"", b"400"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_clients_mistake_fills_no_log(server, name, caplog):
    head, body, status = MISTAKES[name]
    for _ in range(3):
        assert (await raw(server, head, body)).split(b" ", 2)[1] == status
    assert not [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("path", [b"/v1/\xff\xfe", b"/v1/%ff", b"/v1/responses/%00", b"/v1/responses/%ff%ed%a0%80"])
async def test_bytes_that_are_no_text(server, path):
    answer = await raw(server, b"GET " + path + b" HTTP/1.1\r\nHost: localhost")
    assert answer.split(b" ", 2)[1] in (b"400", b"404")
    origin = await raw(server, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://\xff\xfe")
    assert origin.startswith(b"HTTP/1.1 403") and b'"code":"forbidden"' in origin


async def test_a_body_that_breaks_off(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        await reader.read()
    writer.close()
    await writer.wait_closed()
    assert (await server.respond("Hello"))["status"] == "incomplete"
    assert not server.hub.turns


async def test_a_mistake_of_ours_is_logged_by_its_place_and_not_shown(server, capsys):
    async def broken(request):
        raise ZeroDivisionError(request.messages[0].content)

    server.hub.submit_choices = broken
    answer = await server.post("/v1/responses", {"input": "a secret"})
    assert answer.refusal == (500, "internal_error", None)
    assert b"secret" not in answer.body
    printed = capsys.readouterr().out
    assert "ZeroDivisionError" in printed and "test_access.py:broken" in printed
    assert answer.headers["x-request-id"] in printed
    assert "secret" not in printed, "what people write is in no log"


async def test_every_answer_has_an_id_of_its_own(server):
    answers = [await server.get(path) for path in ("/v1/models", "/v1/models", "/nowhere", "/v1/responses/resp_x")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


@pytest.mark.parametrize("own", [True, False])
async def test_a_database_that_is_away_is_an_error_without_its_address(serve, own):
    """Of keys only the server's own is known then."""
    headers = BEARER if own else {}
    async with serve(api_key="secret" if own else None) as server, server.socket(additional_headers=headers) as socket:
        await server.service.store.close()
        server.app[KEYRING].clock = lambda: math.inf
        for method, path in (("POST", "/v1/responses"), ("GET", "/v1/conversations")):
            answer = await server.call(method, path, {"input": "a"}, headers=headers)
            assert answer.refusal == (503, "storage_unavailable", None)
            assert answer.headers["retry-after"] == "1"
            assert b".db" not in answer.body
        assert (await server.get("/v1/models", headers=headers)).status == (200 if own else 503)
        await socket.create("Hello")
        assert (await socket.receive())["error"]["code"] == "storage_unavailable"
