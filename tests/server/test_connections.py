"""What a connection meets before any route: requests that cannot be read, heads that do not come, dead peers."""

import asyncio
import json
import socket
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatpager.server.connections import DEAD_SECONDS
from chatpager.server.leaving import AT_ONCE, Leaving
from tests.serving import DEADLINE, eventually

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
KEY = b"sk-very-secret"
UNREADABLE = {
    "no method": (b"\x16\x03\x01\x02\x00\x01" + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "no version": (b"GET /v1/models " + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "no colon": (GET + b"Authorization " + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "no name": (GET + b": " + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "a control character": (GET + b"Authorization: \x01" + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "two lengths": (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + KEY, 400, "invalid_http"),
    "a length that is none": (GET + b"Content-Length: " + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "a length and chunks": (
        GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + KEY,
        400,
        "invalid_http",
    ),
    "no host": (b"GET /v1/models HTTP/1.1\r\nAuthorization: " + KEY + b"\r\n\r\n", 400, "invalid_http"),
    "a long address": (b"GET /" + KEY * 1000 + b" HTTP/1.1\r\n\r\n", 431, "head_too_large"),
    "a long header": (GET + b"Authorization: " + KEY * 1000 + b"\r\n\r\n", 431, "head_too_large"),
    "many headers": (GET + b"X-%s: 1\r\n" % KEY * 200 + b"\r\n", 400, "invalid_http"),
}


async def said(server, data):
    """All that a connection answers to these bytes, once it was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    return answer


def split(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return (
        int(status.split()[1]),
        {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)},
        body,
    )


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_read_is_an_error_of_the_api_and_the_connection_s_end(server, name):
    sent, status, code = UNREADABLE[name]
    answer = await said(server, sent)
    told, headers, body = split(answer)
    error = json.loads(body)["error"]
    assert (told, error["code"], error["type"], error["param"]) == (status, code, "invalid_request_error", None)
    assert headers["content-type"].startswith("application/json") and headers["connection"] == "close"
    assert headers["x-request-id"].startswith("req_")
    assert KEY not in answer, "what came may be a key"


async def test_who_speaks_tls_is_told_so(server):
    _, _, body = split(await said(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
    assert "not TLS" in json.loads(body)["error"]["message"]


async def test_an_expectation_that_is_not_met(server):
    answer = await said(server, GET + b"Expect: miracles\r\nConnection: close\r\n\r\n")
    status, headers, body = split(answer)
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
    assert headers["x-request-id"].startswith("req_") and b"miracles" not in answer


PARTS = st.binary(max_size=6) | st.sampled_from(
    [b"GET ", b"POST ", b"/v1/models", b" HTTP/1.1", b"\r\n", b"Host: localhost\r\n", b"Expect: a\r\n", b":", b"\xff"]
)


async def test_whatever_comes_is_answered_in_the_api_s_shape_or_not_at_all(serve):
    async with serve(idle_seconds=0.05) as server:
        loop = asyncio.get_running_loop()

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(PARTS, max_size=10))
        def whatever(parts):
            answer = asyncio.run_coroutine_threadsafe(said(server, b"".join(parts)), loop).result(DEADLINE)
            while answer:
                status, headers, rest = split(answer)
                length = int(headers["content-length"])
                assert len(rest) >= length
                assert status == 200 or set(json.loads(rest[:length])["error"]) == {"message", "type", "param", "code"}
                answer = rest[length:]

        await asyncio.to_thread(whatever)
        assert (await server.get("/v1/models")).status == 200


@pytest.mark.parametrize("sent", [b"G", b"GET /health HTTP/1.1\r\nHost: loc", b"\r\nG"])
async def test_half_a_head_is_not_waited_for_as_long_as_an_idle_connection(serve, sent):
    async with serve(head_seconds=0.2, idle_seconds=1000.0) as server:
        assert await said(server, sent) == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET + b"\r\n")
        async with asyncio.timeout(DEADLINE):
            length = int(split(await reader.readuntil(b"\r\n\r\n"))[1]["content-length"])
            await reader.readexactly(length)
            writer.write(sent)
            assert await reader.read() == b"", "a second one has no more time"
        writer.close()


async def answered(reader):
    async with asyncio.timeout(DEADLINE):
        status, headers, _ = split(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(int(headers["content-length"]))
    return status


REFUSED = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(("first", "rest", "status"), [(GET + b"\r\n", b"\r\n", 200), (REFUSED, b"123456789", 403)])
async def test_what_is_no_head_has_no_such_time(serve, first, rest, status):
    """An empty line, and the body of a request that was refused before it was read."""
    async with serve(head_seconds=0.1, idle_seconds=1000.0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(first)
        assert await answered(reader) == status
        writer.write(rest)
        assert await said(server, b"G") == b"", "longer than a head has"
        writer.write(GET + b"\r\n")
        assert await answered(reader) == 200
        writer.close()


async def test_a_head_that_comes_a_byte_at_a_time_has_no_more_time(serve):
    async with serve(head_seconds=0.2, idle_seconds=1000.0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def drip():
            writer.write(GET + b"X: ")
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        dripping.cancel()
        writer.close()


async def test_who_is_answered_or_has_a_socket_or_sends_a_body_is_not_hurried(serve):
    async with serve(head_seconds=0.1, idle_seconds=1000.0) as server, server.socket() as client:
        server.gate.hold()
        body = b'{"input": "Hello", "max_output_tokens": 2}'
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[:5])
        late = await said(server, b"G")
        writer.write(body[5:])
        await server.live_turn()
        assert await said(server, b"G") == late == b""
        server.gate.open()
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await client.create("Hello")
        assert (await client.rest())[-1]["type"] != "error"
        writer.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
async def test_a_connection_whose_other_side_acknowledges_nothing_ends(server):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await eventually(lambda: len(server.runner.server.connections) == 1)
    [connection] = server.runner.server.connections
    taken = connection.transport.get_extra_info("socket")
    assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * DEAD_SECONDS
    writer.close()


async def test_of_connections_that_end_at_once_others_have_their_turn_between_a_few():
    leaving, ended, seen = Leaving(), [], []
    for number in range(3 * AT_ONCE + 1):
        leaving.left(partial(ended.append, number))
    while len(ended) <= 3 * AT_ONCE:
        seen.append(len(ended))
        await asyncio.sleep(0)
    assert ended == list(range(3 * AT_ONCE + 1)) and seen == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.left(partial(ended.append, "one"))
    assert ended[-1] == "one", "alone it does not wait"
