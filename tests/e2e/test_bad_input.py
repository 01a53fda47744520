"""Whatever comes in, a typed error goes out, and the connection and the server go on as if nothing had been."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from chatpager.config import ServerConfig
from tests.gate import DEADLINE
from tests.processes import serving
from tests.reliability.inside import told_inside

TOO_LARGE = "x" * (ServerConfig().max_message_bytes + 1)
TOO_LONG = "word " * 9000
DEEP = "[" * 10_000
ONE_TOKEN = {"input": "Hello", "max_output_tokens": 1, "ignore_eos": True}

# What is asked -> the error's code and param, the same over every wire.
TURNS = {
    "input of a wrong type": ({"input": 5}, "invalid_request", "input"),
    "no input": ({}, "invalid_request", "input"),
    "an item without a role": ({"input": [{"content": "Hello"}]}, "invalid_request", "input[0].role"),
    "a role that there is not": ({"input": [{"role": "king", "content": ""}]}, "invalid_request", "input[0].role"),
    "an item that is no object": ({"input": ["Hello"]}, "invalid_request", "input[0]"),
    "a picture": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "invalid_request", "input[0].content[0]",
    ),
    "a part without its text": (
        {"input": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_request", "input[0].content[0].text",
    ),
    "a NUL": ({"input": "a\0b"}, "invalid_request", "input"),
    "a temperature that is text": ({"input": "Hello", "temperature": "hot"}, "invalid_request", "temperature"),
    "a temperature below 0": ({"input": "Hello", "temperature": -0.1}, "invalid_request", "temperature"),
    "no tokens": ({"input": "Hello", "max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
    "metadata that is no text": ({"input": "Hello", "metadata": {"a": 1}}, "invalid_request", "metadata"),
    "a word that we do not know": ({"input": "Hello", "chatpager": {"warp": 9}}, "invalid_request", "chatpager"),
    "another model": ({"input": "Hello", "model": "gpt-4o"}, "model_not_found", "model"),
    "a tool": ({"input": "Hello", "tools": [{"type": "function"}]}, "invalid_request", "tools"),
    "an unknown response": (
        {"input": "Hello", "previous_response_id": "resp_x"}, "previous_response_not_found", "previous_response_id",
    ),
    "an unknown conversation": ({"input": "Hello", "conversation": "conv_x"}, "conversation_not_found", "conversation"),
    "a response with a NUL": (
        {"input": "Hello", "previous_response_id": "\0"}, "invalid_request", "previous_response_id",
    ),
    "a conversation with a NUL": ({"input": "Hello", "conversation": "a\0"}, "invalid_request", "conversation"),
    "both at once": (
        {"input": "Hello", "conversation": "conv_x", "previous_response_id": "resp_x"}, "invalid_request",
        "conversation",
    ),
    "a prompt longer than the context": ({"input": TOO_LONG}, "context_length_exceeded", "input"),
}  # fmt: skip

# What is sent over HTTP -> status and code.
REQUESTS = {
    "half an object": ("POST", "/v1/responses", '{"input": ', 400, "invalid_json"),
    "a list": ("POST", "/v1/responses", "[]", 400, "invalid_json"),
    "nothing": ("POST", "/v1/responses", "", 400, "invalid_json"),
    "no UTF-8": ("POST", "/v1/responses", b'{"input": "\xff"}', 400, "invalid_json"),
    "too deep": ("POST", "/v1/responses", DEEP, 400, "invalid_json"),
    "too large": ("POST", "/v1/responses", TOO_LARGE, 413, "request_too_large"),
    "half a chat": ("POST", "/v1/chat/completions", "{", 400, "invalid_json"),
    "a chat without messages": ("POST", "/v1/chat/completions", "{}", 400, "invalid_request"),
    "a chat too long": (
        "POST", "/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": TOO_LONG}]}), 400,
        "context_length_exceeded",
    ),
    "items of a wrong type": ("POST", "/v1/conversations", '{"items": "x"}', 400, "invalid_request"),
    "a title too long": (
        "POST", "/v1/conversations", json.dumps({"metadata": {"title": "x" * 300}}), 400, "invalid_request",
    ),
    "a page too large": ("GET", "/v1/conversations?limit=1000", None, 400, "invalid_request"),
    "a page of nonsense": ("GET", "/v1/conversations?limit=ten", None, 400, "invalid_request"),
    "an unknown place in the list": ("GET", "/v1/conversations?after=conv_x", None, 404, "conversation_not_found"),
    "an unknown response": ("GET", "/v1/responses/resp_x", None, 404, "response_not_found"),
    "an unknown response to cancel": ("POST", "/v1/responses/resp_x/cancel", None, 404, "response_not_found"),
    "an unknown response to delete": ("DELETE", "/v1/responses/resp_x", None, 404, "response_not_found"),
    "an unknown conversation": ("GET", "/v1/conversations/conv_x", None, 404, "conversation_not_found"),
    "an unknown conversation's items": ("GET", "/v1/conversations/conv_x/items", None, 404, "conversation_not_found"),
    "an id of odd characters": ("GET", "/v1/conversations/%00%ff%2e%2e", None, 404, "conversation_not_found"),
    "a NUL in a conversation's id": ("GET", "/v1/conversations/a%00b/items", None, 404, "conversation_not_found"),
    "a NUL to rename": ("POST", "/v1/conversations/%00", '{"metadata": {"title": "x"}}', 404, "conversation_not_found"),
    "a NUL to delete": ("DELETE", "/v1/conversations/%00", None, 404, "conversation_not_found"),
    "a NUL in a list's place": ("GET", "/v1/conversations?after=%00", None, 404, "conversation_not_found"),
    "a NUL in a response's id": ("GET", "/v1/responses/%00", None, 404, "response_not_found"),
    "a NUL in an id to cancel": ("POST", "/v1/responses/%00/cancel", None, 404, "response_not_found"),
    "a NUL in an id to forget": ("DELETE", "/v1/responses/%00", None, 404, "response_not_found"),
    "a NUL in a chat's id": ("DELETE", "/v1/chat/completions/%00", None, 404, "response_not_found"),
    "a NUL in an input's id": ("GET", "/v1/responses/%00/input_items", None, 404, "response_not_found"),
    "an unknown model": ("GET", "/v1/models/gpt-4o", None, 404, "model_not_found"),
    "an unknown path": ("GET", "/v1/nothing", None, 404, "not_found"),
    "a file outside": ("GET", "/../../etc/passwd", None, 404, "not_found"),
    "another method": ("PUT", "/v1/models", None, 405, "method_not_allowed"),
    "a socket's path by GET": ("GET", "/v1/responses", None, 426, "upgrade_required"),
}  # fmt: skip

# What is sent as a frame -> code and param.
FRAMES = {
    "half an object": ('{"type": ', "invalid_json", None),
    "a number": ("1", "invalid_json", None),
    "nothing": ("", "invalid_json", None),
    "too deep": (DEEP, "invalid_json", None),
    "bytes": (b'{"type": "response.create"}', "invalid_request", None),
    "no type": ("{}", "unsupported_event", "type"),
    "a type that there is not": ('{"type": "response.sing"}', "unsupported_event", "type"),
    "a type that is a list": ('{"type": ["response.create"]}', "unsupported_event", "type"),
    "a cancel of nothing": ('{"type": "response.cancel"}', "invalid_request", "response_id"),
    "a cancel of an unknown response": (
        '{"type": "response.cancel", "response_id": "resp_x"}', "response_not_found", None,
    ),
    "a lane without a name": (
        '{"type": "response.create", "input": "Hello", "stream_id": ""}', "invalid_request", "stream_id",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def server_url(request, server_url, fork_server, tmp_path_factory):
    """The session's server, and then one with its data in PostgreSQL."""
    if request.param == "sqlite":
        yield server_url
        return
    postgres = request.getfixturevalue("postgres_server")
    database = postgres.url(postgres.create())
    with serving(fork_server, tmp_path_factory.mktemp("postgres"), CHATPAGER_DATABASE_URL=database) as running:
        yield running.url


def ask(url, method, path, body=None, **headers):
    """(status, the answer's JSON). The path goes out as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE)
    try:
        body = body.encode() if isinstance(body, str) else body
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def is_well(url):
    """One whole turn goes through."""
    status, answer = ask(url, "POST", "/v1/responses", json.dumps(ONE_TOKEN))
    return status == 200 and answer["status"] == "incomplete"


def is_typed(error):
    assert told_inside(json.dumps(error)) is None
    return set(error) == {"message", "type", "param", "code"} and error["message"]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), REQUESTS.values(), ids=REQUESTS.keys())
def test_http(server_url, method, path, body, status, code):
    told, answer = ask(server_url, method, path, body)
    assert (told, answer["error"]["code"]) == (status, code)
    assert is_typed(answer["error"])
    assert is_well(server_url)


@pytest.mark.parametrize(("body", "code", "param"), TURNS.values(), ids=TURNS.keys())
def test_a_turn_over_http(server_url, body, code, param):
    status, answer = ask(server_url, "POST", "/v1/responses", json.dumps(body))
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param)
    assert status == (404 if code.endswith("not_found") else 400)
    assert is_typed(answer["error"])
    assert ask(server_url, "POST", "/v1/responses", json.dumps({**body, "stream": True})) == (status, answer)


async def receive(socket):
    return json.loads(await socket.recv())


async def is_well_on(socket):
    """One whole turn goes through on this socket, and nothing else comes."""
    await socket.send(json.dumps({"type": "response.create", **ONE_TOKEN}))
    kinds = [(await receive(socket))["type"]]
    while not kinds[-1].startswith(("error", "response.incomplete")):
        kinds.append((await receive(socket))["type"])
    return (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")


@pytest.fixture
async def socket(server_url):
    async with connect(server_url.replace("http", "ws") + "/v1/responses", max_size=None) as socket:
        yield socket


async def refused(socket, frame, code, param):
    await socket.send(frame)
    event = await receive(socket)
    assert (event["type"], event["error"]["code"], event["error"]["param"]) == ("error", code, param)
    assert is_typed(event["error"])
    assert await is_well_on(socket)


@pytest.mark.parametrize(("frame", "code", "param"), FRAMES.values(), ids=FRAMES.keys())
async def test_a_frame(socket, frame, code, param):
    await refused(socket, frame, code, param)


@pytest.mark.parametrize(("body", "code", "param"), TURNS.values(), ids=TURNS.keys())
async def test_a_turn_over_the_socket(socket, body, code, param):
    await refused(socket, json.dumps({"type": "response.create", **body}), code, param)


async def test_a_frame_too_large_ends_its_socket_and_no_other(server_url, socket):
    async with connect(server_url.replace("http", "ws") + "/v1/responses") as greedy:
        with pytest.raises(ConnectionClosed) as closed:
            await refused(greedy, TOO_LARGE, None, None)
    assert closed.value.rcvd.code == 1009
    assert await is_well_on(socket)


@pytest.mark.parametrize("header", [{"Host": "evil.test"}, {"Origin": "http://evil.test"}], ids=lambda h: next(iter(h)))
@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses"])
def test_a_foreign_page_is_kept_out_and_told_the_way(server_url, header, path):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    more = {**upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} if path == "/v1/responses" else {}
    status, answer = ask(server_url, "GET", path, **header, **more)
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert "--allowed-origins http://evil.test" in answer["error"]["message"]
