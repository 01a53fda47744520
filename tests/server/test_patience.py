"""Clients that keep the server waiting, and more of them than it can have."""

import asyncio
import errno

import pytest
import structlog
from websockets.exceptions import ConnectionClosedError

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


async def test_a_frame_that_is_too_large_is_told_before_the_socket_closes(serve):
    async with serve(max_message_bytes=2048) as server, server.socket() as socket:
        await socket.create("a" * 4000)
        refused = await socket.receive()
        assert (refused["status"], refused["error"]["code"]) == (413, "request_too_large")
        assert "2048 bytes" in refused["error"]["message"]
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.receive()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1009, refused["error"]["message"])


async def test_what_an_error_quotes_is_cut(server):
    answer = await server.post("/v1/responses", {"input": "a", "previous_response_id": "r" * 100_000})
    assert answer.refusal == (404, "previous_response_not_found", "previous_response_id")
    assert len(answer.error["message"]) < 1100


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

    @pytest.mark.parametrize(
        "context", [{"message": "a bug"}, {"message": "m", "exception": OSError(errno.EMFILE, "x")}]
    )
    async def test_everything_else_is_told_as_it_is(self, context, caplog):
        TooManyConnections()(asyncio.get_running_loop(), context)
        assert context["message"] in caplog.text

    async def test_another_error_of_accept_is_told_as_it_is(self, caplog):
        TooManyConnections()(asyncio.get_running_loop(), self.context(errno.ENOBUFS))
        assert "out of system resource" in caplog.text


async def test_the_sockets_that_are_closed_are_gone_from_the_server(serve):
    async with serve(idle_seconds=0.2) as server:
        writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(20)]
        await eventually(lambda: not server.runner.server.connections)
        for writer in writers:
            writer.close()
