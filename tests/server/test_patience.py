"""Clients that keep the server waiting, and more of them than it can have."""

import asyncio
import errno
import resource
from math import inf

import aiohttp
import pytest
import structlog
from websockets.exceptions import ConnectionClosedError

from chatpager.server.connections import Files, files_allowed
from chatpager.server.patience import TooManyConnections
from tests.serving import DEADLINE, eventually

HALVES = [
    b"",
    b"GET /health HTTP/1.1\r\nHost: loc",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",  # and nothing after its answer
]


@pytest.mark.parametrize("sent", HALVES)
async def test_a_connection_without_a_request_is_closed(serve, sent):
    async with serve(idle_seconds=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        assert (b"200 OK" in answer) == sent.endswith(b"\r\n\r\n")
        writer.close()


async def test_a_socket_lives_longer_than_what_is_idle(serve):
    async with serve(idle_seconds=0.1) as server, server.socket() as socket:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b"", "this one is idle, and was opened later"
        await socket.create("Hello")
        assert (await socket.rest())[-1]["type"] != "error"
        writer.close()


async def test_so_does_a_stream(serve):
    async with serve(idle_seconds=0.1) as server:
        server.gate.hold(after=2)
        body = {"input": "Hello", "stream": True, "max_output_tokens": 4, "ignore_eos": True}
        async with server.events("/v1/responses", body) as events:
            await server.held()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            assert await reader.read() == b""
            server.gate.open()
            assert [kind async for kind, _ in events][-1] == "response.incomplete"
        writer.close()


async def test_a_body_that_does_not_come_is_refused(server):
    server.service.body_seconds = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(DEADLINE):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert (await server.respond("Hello"))["status"] in ("completed", "incomplete")


@pytest.mark.parametrize("asked", ["POST /v1/login", "GET /health", "GET /"])
async def test_of_who_has_not_come_in_no_long_body_is_gathered(serve, asked):
    """What is longer is refused before it is there."""
    async with serve(api_key="secret") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"{asked} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode() + bytes(1 << 16)
        )
        try:
            async with asyncio.timeout(DEADLINE):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 413 ") and b"larger than 16384 bytes" in await reader.read(1 << 12)
        finally:
            writer.transport.abort()


async def test_a_frame_that_is_too_large_is_told_before_the_socket_closes(serve):
    async with serve(max_message_bytes=2048) as server, server.socket() as socket:
        await socket.create("a" * 4000)
        refused = await socket.receive()
        assert (refused["status"], refused["error"]["code"]) == (413, "request_too_large")
        assert "2048 bytes" in refused["error"]["message"]
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.receive()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1009, refused["error"]["message"])


R = "r" * 3000
QUOTED = [
    ("POST", "/v1/responses", {"input": "a", "previous_response_id": R}),
    ("POST", "/v1/responses", {"input": "a", "conversation": R}),
    ("POST", "/v1/responses", {"input": "a", "model": R}),
    ("POST", "/v1/responses", {"input": "a", R: 1, "text": {"format": {"type": R}}}),
    ("POST", "/v1/responses", {"input": [{"type": R}]}),
    ("POST", "/v1/responses", {"input": [{"role": R, "content": "a"}]}),
    ("POST", "/v1/responses", {"input": [{"type": "function_call_output", "call_id": R, "output": "a"}]}),
    ("POST", "/v1/responses", {"input": "a", "tools": [{"type": R}]}),
    ("POST", "/v1/responses", {"input": "a", "include": [R]}),
    ("POST", "/v1/responses", {"input": "a", "truncation": R}),
    ("POST", "/v1/chat/completions", {"messages": [{"role": R, "content": "a"}]}),
    ("POST", "/v1/messages", {"messages": [{"role": "user", "content": [{"type": R}]}], "max_tokens": 1}),
    ("POST", "/v1/completions", {"prompt": "a", "model": R}),
    ("POST", "/v1/conversations", {R: "a"}),
    ("POST", "/v1/conversations", {"items": [{"role": R, "content": "a"}]}),
    ("PUT", f"/v1/conversations/{R}/pin", {}),
    ("GET", f"/v1/responses/{R}", None),
    ("POST", f"/v1/responses/{R}/cancel", None),
    ("DELETE", f"/v1/chat/completions/{R}", None),
    ("GET", f"/v1/models/{R}", None),
    ("GET", f"/v1/prefixes/{R}", None),
    ("GET", f"/v1/conversations?after={R}", None),
    ("GET", f"/v1/conversations?{R}=1", None),
    ("GET", f"/v1/cache/explain?first={R}&second={R}", None),
    ("GET", f"/v1/{R}", None),
    ("PATCH", f"/v1/conversations/{R}", None),
    ("POST", f"/v1/admin/requests/{R}/cancel", None),
    ("DELETE", f"/v1/admin/tenants/{R}", None),
    ("PUT", f"/v1/admin/keys/{R}/limits", {}),
]


async def test_what_an_error_quotes_is_cut(server):
    for method, path, body in QUOTED:
        answer = await server.call(method, path, body)
        assert answer.status in (400, 404, 405), (method, path[:40], answer.body[:80])
        assert R[:65] not in answer.body.decode(), (method, path[:40], body and list(body), answer.body[:200])
    for name, value in (("Origin", f"http://{R}.test"), ("Host", R)):
        answer = await server.get("/v1/models", headers={name: value})
        assert answer.status == 403 and R[:65] not in answer.body.decode()
    async with server.socket() as socket:
        for frame in ({"type": R}, {"type": "response.cancel", "response_id": R}, {"type": "response.create", R: R}):
            await socket.send(**frame)
            assert R[:65] not in str(await socket.receive())


class TestTooManyConnections:
    @staticmethod
    def context(number=errno.EMFILE):
        error = OSError(number, "Too many open files")
        return {"message": "socket.accept() out of system resource", "exception": error, "socket": None}

    async def test_is_said_once_a_while(self):
        handler, loop = TooManyConnections(remind_seconds=1000), asyncio.get_running_loop()
        with structlog.testing.capture_logs() as said:
            for _ in range(1000):
                handler(loop, self.context())
        assert [(line["event"], line["log_level"]) for line in said] == [("connections.refused", "error")]
        assert "ulimit" in said[0]["way_out"]

    async def test_is_said_again_later(self):
        handler = TooManyConnections(remind_seconds=0.0)
        with structlog.testing.capture_logs() as said:
            for _ in range(2):
                handler(asyncio.get_running_loop(), self.context())
        assert len(said) == 2

    async def test_what_is_no_exception_is_told_as_it_is(self, caplog):
        TooManyConnections()(asyncio.get_running_loop(), {"message": "a bug"})
        assert "a bug" in caplog.text

    @pytest.mark.parametrize("error", [ValueError("Xylophon"), OSError(errno.EMFILE, "x"), OSError(errno.ENOBUFS, "x")])
    async def test_of_another_exception_its_type_is_told_and_not_its_words(self, error, caplog):
        """A callback's arguments stand in asyncio's message."""
        context = {"message": "Exception in callback f('Xylophon')", "exception": error}
        with structlog.testing.capture_logs() as said:
            TooManyConnections()(asyncio.get_running_loop(), context)
        assert [(line["event"], line["error"]) for line in said] == [("loop.mistake", type(error).__name__)]
        assert "Xylophon" not in caplog.text + str(said)

    async def test_another_error_of_accept_is_told_as_any(self):
        with structlog.testing.capture_logs() as said:
            TooManyConnections()(asyncio.get_running_loop(), self.context(errno.ENOBUFS))
        assert [(line["event"], line["reason"]) for line in said] == [("loop.mistake", "Too many open files")]


def has_files(server, files):
    """From now on, for connections that come."""
    of = server.runner.server
    of._limits = of._limits._replace(files=files)


class TestNoFileIsLeft:
    async def test_who_takes_of_the_reserve_is_told_to_come_later_and_those_who_are_there_notice_nothing(self, serve):
        async with serve(lambda prompt: "hello there") as server, server.socket() as socket:
            has_files(server, Files(0, inf))
            with structlog.testing.capture_logs() as said:
                for _ in range(3):
                    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/v1/models") as answer:
                        body = await answer.json()
                    assert (answer.status, body["error"]["code"]) == (503, "server_is_overloaded")
                    assert answer.headers["retry-after"] == "1" and answer.headers["connection"] == "close"
            assert [line["event"] for line in said if line["log_level"] == "error"] == ["connections.refused"]
            await socket.create("Hello", max_output_tokens=5)
            assert (await socket.rest())[-1]["response"]["status"] == "incomplete"
            has_files(server, Files(inf, inf))
            assert (await server.get("/v1/models")).status == 200

    async def test_beyond_half_of_the_reserve_there_is_no_answer(self, serve):
        async with serve() as server:
            has_files(server, Files(0, 0))
            with pytest.raises(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as http, http.get(f"{server.url}/v1/models"):
                    pass
            await eventually(lambda: not any(one.is_too_many for one in server.runner.server.connections))
            has_files(server, Files(inf, inf))
            assert (await server.get("/v1/models")).status == 200

    @pytest.mark.parametrize(
        ("allowed", "files"),
        [(256, Files(224, 240)), (4096, Files(4032, 4064)), (resource.RLIM_INFINITY, Files(inf, inf))],
    )
    def test_of_few_files_an_eighth_is_kept(self, monkeypatch, allowed, files):
        monkeypatch.setattr(resource, "getrlimit", lambda what: (allowed, allowed))
        assert files_allowed() == files


async def test_the_sockets_that_are_closed_are_gone_from_the_server(serve):
    async with serve(idle_seconds=0.2) as server:
        writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(20)]
        await eventually(lambda: not server.runner.server.connections)
        for writer in writers:
            writer.close()
