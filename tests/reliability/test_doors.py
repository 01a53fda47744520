"""Every way in, and every way around it: without a key, from a foreign page, to files beside those that are served."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chatpager.server.access import FOR_ADMINS, FOR_READERS, PUBLIC
from chatpager.server.admin_listener import listen_for_admins
from chatpager.server.routes_ops import ASSETS
from tests.processes import clean_env, serving
from tests.server.test_access import BEARER, FRIEND, raw
from tests.watched.sitecustomize import EXIT_CODE

KEY = "Authorization: Bearer secret"
MODELS = b'"object":"model"'
"""What only somebody with the key may see."""


async def test_every_route_but_those_on_the_list_wants_a_key(serve):
    async with serve(api_key="secret") as server:
        for route in server.app.router.routes():
            path = re.sub(r"\{[^}]*\}", "x", route.resource.canonical)
            answer = await server.call(route.method, path)
            assert (answer.status == 401) == (route.name not in server.app[PUBLIC]), (route.method, path)
        open_to_all = {"page", "health", "live", "ready", "openapi", "login", "logged_in", "logout"}
        assert server.app[PUBLIC] == open_to_all


async def test_what_is_for_admins_can_have_a_port_of_its_own_and_is_not_at_the_other(serve):
    async with serve(api_key="secret") as server:
        port = await listen_for_admins(server.runner, "127.0.0.1", 0)
        about_the_server = server.app[FOR_ADMINS] | server.app[FOR_READERS]
        for route in server.app.router.routes():
            if route.name in about_the_server - {"admin_live", "admin_drain"}:
                path = re.sub(r"\{[^}]*\}", "x", route.resource.canonical)
                hidden = await server.call(route.method, path, headers=BEARER)
                assert hidden.status == 404 and (not hidden.body or b"there is nothing at" in hidden.body), path
                assert (await server.call(route.method, path)).status == 404, "no key is asked for what is not there"
                assert b"there is nothing at" not in await raw(server, asked(path, header=KEY), port=port), path
        assert (await server.get("/admin")).status == 404 and (await server.get("/")).status == 200
        assert MODELS in await raw(server, asked(header=KEY), port=port)
        assert MODELS not in await raw(server, asked(), port=port), "it wants a key, too"
        assert b" 403 " in await raw(server, asked(host="evil.test", header=KEY), port=port)


PATHS = [
    "/v1/models", "http://localhost/v1/models", "http://localhost:1/v1/models", "//v1/models", "/./v1/models",
    "/health/../v1/models", "/%2e/v1/models", "/health/%2e%2e/v1/models", "/health/..%2fv1/models", "/v1//models",
    "/v1/models/", "/v1/models//", "/V1/models", "/v1/MODELS", "/v1/%6dodels", "/%76%31/models", "/v1%2fmodels",
    "/v1/models?", "/v1/models?x=/health", "/v1/models#/health", "/v1/models;/health", "/v1/models%00",
    "/v1/models%20", "/v1\\models", "/\\v1/models", "/health?/v1/models", "/health#/v1/models", "/health;/v1/models",
    "/health/v1/models", "/v1/models/../../health/../v1/models",
]  # fmt: skip
HOSTS = [
    "localhost/health", "localhost/health?", "localhost?", "localhost#", "localhost/?", "/health", "health",
    "localhost:/", "localhost/health#", "127.0.0.1/health",
]  # fmt: skip
HEADERS = [
    "X-Original-URL: /health", "X-Rewrite-URL: /health", "X-Forwarded-Path: /health", "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Host: localhost", "Forwarded: for=127.0.0.1", "X-HTTP-Method-Override: OPTIONS", "Cookie: key=secret",
    "Authorization: Basic c2VjcmV0OnNlY3JldA==", "X-API-Key: ", "Upgrade: websocket",
]  # fmt: skip


def asked(path="/v1/models", host="localhost", header="X-Nothing: 1"):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}".encode()


async def test_no_spelling_of_a_path_a_host_or_a_header_gets_past_the_key(serve):
    async with serve(api_key="secret") as server:
        heads = [asked(p) for p in PATHS] + [asked(host=h) for h in HOSTS] + [asked(header=h) for h in HEADERS]
        for head in heads:
            assert MODELS not in await raw(server, head), head
        assert MODELS in await raw(server, asked(header="Authorization: Bearer secret"))


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "token", "access_token", "authorization"])
async def test_a_key_in_an_address_or_a_cookie_opens_nothing(serve, name):
    async with serve(api_key="secret") as server:
        assert (await server.get(f"/v1/models?{name}=secret")).refusal == (401, "invalid_api_key", None)
        assert (await server.get("/v1/models", headers={"Cookie": f"{name}=secret"})).status == 401
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        assert (await server.get(f"/v1/responses?{name}=secret", headers=upgrade)).status == 401
        assert (await server.get("/v1/models", headers=BEARER)).status == 200


FOREIGN = [
    "null", "file://", "about:blank", "https://evil.example", "https://friend.example", "http://friend.example:8443",
    "https://friend.example:8444", "https://friend.example:443", "https://friend.example:08443",
    "https://FRIEND.example:8443", "https://friend.example.:8443", "https://www.friend.example:8443",
    "https://evilfriend.example:8443", "https://friend.example.evil.example:8443",
    "https://friend.example:8443.evil.example", "https://friend.example:8443@evil.example",
    "https://evil.example@friend.example:8443",
    "https://friend.example:8443/page", "https://friend.example:8443?", "https://friend.example:8443#",
    "https://friend.example%3a8443", "https://xn--frend-bta.example:8443",
    "https://friend.example:8443,https://evil.example",
    "https://friend.example:8443 https://evil.example", "friend.example:8443", "http://localhost", "http://127.0.0.1:1",
    "http://evil.example/127.0.0.1:{port}", "http://127.0.0.1:{port}.evil.example", "http://127.0.0.1:{port}@evil.example",
    "http://evil.example?127.0.0.1:{port}", "http://evil.example#127.0.0.1:{port}",
    "http://127.0.0.1.evil.example:{port}",
]  # fmt: skip


async def test_no_spelling_of_an_origin_is_taken_for_a_friend_s(serve):
    async with serve(allowed_origins=FRIEND) as server:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        for origin in FOREIGN:
            headers = {"Origin": origin.format(port=server.port)}
            answer = await server.get("/v1/models", headers=headers)
            assert answer.refusal == (403, "forbidden", None), origin
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert (await server.get("/v1/responses", headers={**headers, **upgrade})).status == 403, origin
        for origin in (FRIEND, server.url):
            assert (await server.get("/v1/models", headers={"Origin": origin})).status == 200


LISTENING_TCP, LISTENING_UNIX = "0A", "00010000"


def listening(pid):
    """What a process listens at: addresses as the kernel writes them with their ports, and names in the file system."""
    held = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.add(os.readlink(file))
    for kind in ("tcp", "tcp6", "unix"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if kind == "unix":
                if words[3] == LISTENING_UNIX and f"socket:[{words[6]}]" in held:
                    yield words[-1]
            elif words[3] == LISTENING_TCP and f"socket:[{words[9]}]" in held:
                address, port = words[1].split(":")
                yield address, int(port, 16)


def test_a_server_listens_on_its_one_port_alone(fork_server, tmp_path):
    with serving(fork_server, tmp_path) as server:
        server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 2})
        assert list(listening(server.process.pid)) == [("0100007F", urlsplit(server.url).port)]
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(str(tmp_path / "s"), family=socket.AF_UNIX),
    ):
        assert {str(tmp_path / "s"), ("0100007F", one.getsockname()[1])} <= set(listening(os.getpid()))


def test_a_process_of_the_tests_that_asks_another_machine_ends(tmp_path):
    """As a server does, whose answer may have nothing to do with that."""
    for host, code in (("127.0.0.1", 1), ("192.0.2.1", EXIT_CODE)):
        asks = f"import socket; socket.create_connection(({host!r}, 9), 1)"
        done = subprocess.run([sys.executable, "-c", asks], env=clean_env(tmp_path), stderr=subprocess.PIPE)
        assert done.returncode == code, done.stderr
    with pytest.raises(PermissionError, match="only this machine"):
        socket.create_connection(("192.0.2.1", 9), 1)


DOTS = ["..", "%2e%2e", ".%2e", "%252e%252e", "..%00", "..;", "....", "%c0%ae%c0%ae"]
SLASHES = ["/", "%2f", "\\", "%5c", "//"]
DEPTHS = [1, 2, 3, 5, 8]
STEPS = [(dots + slash) * depth for dots, slash, depth in itertools.product(DOTS, SLASHES, DEPTHS)]


async def test_nothing_tells_whether_a_file_is_there_that_is_not_served(server):
    """``app.py`` is beside the folder of the page's files, and ``zzz.py`` is nowhere."""
    server.app[ASSETS].update({"/assets/main.js": (b"1", "text/javascript")})
    assert len(STEPS) == 200
    for steps in STEPS:
        told = [await raw(server, asked(f"/assets/{steps}{name}")) for name in ("app.py", "zzz.py")]
        status, bodies = told[0].split(b" ", 2)[1], [answer.partition(b"\r\n\r\n")[2] for answer in told]
        assert (status, json.loads(bodies[0])["error"]["code"]) == (b"404", "not_found"), steps
        without_path = [re.sub(rb"'/assets/[^']*'", b"", body) for body in bodies]
        assert without_path[0] == without_path[1] and len(bodies[0]) == len(bodies[1])
