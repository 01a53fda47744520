"""A client that talks faster than it may is read no faster, and everybody else goes on."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import Overloaded
from chatpager.server.frame_rate import TokenBucket
from chatpager.server.responses_socket import BURST_SECONDS
from chatpager.server.websocket import CONNECTIONS, PLACES
from tests.server.stalling import UPGRADE, count_steps, small_buffers, stalled
from tests.serving import DEADLINE, GREEDY, eventually

PING = b"\x89\xfd\0\0\0\0" + b"p" * 125
NOTHING = b"\x81\x82\0\0\0\0{}"


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 3), max_size=60))
def test_in_no_time_more_are_used_than_came_back(rate, burst, pauses):
    now, bucket, used = 0.0, TokenBucket(rate, burst, 0.0), []
    for pause in pauses:
        now += pause
        used.append(now + bucket.take(now))
    for i, first in enumerate(used):
        for count, last in enumerate(used[i:], 1):
            assert count <= burst + rate * (last - first) + 1 + 1e-6


def test_who_keeps_to_the_rate_never_waits():
    bucket = TokenBucket(10, 5, 0.0)
    assert [bucket.take(i / 10) for i in range(1, 100)] == [0.0] * 99
    assert [bucket.take(100.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(100.0) == pytest.approx(0.1) and bucket.take(100.0) == pytest.approx(0.2)
    assert bucket.take(90.0) > 0, "a clock that goes back gives nothing"


async def test_a_flood_of_frames_is_answered_at_its_rate_while_others_are_served(serve, monkeypatch):
    async with serve() as server, server.socket() as neighbour:
        server.service.frames_per_second = rate = 20.0
        loop, others = asyncio.get_running_loop(), asyncio.all_tasks()
        async with server.socket() as flooding:
            start, burst = loop.time(), int(rate * BURST_SECONDS)
            for _ in range(burst + 10):
                await flooding.ws.send("{}")
            for _ in range(burst + 10):
                assert (await flooding.receive())["error"]["code"] == "unsupported_event"
            emptied = loop.time()
            assert emptied - start >= 9 / rate
            for _ in range(burst):
                await flooding.ws.send("{}")
            steps = count_steps(monkeypatch, asyncio.all_tasks() - others)
            for _ in range(3):
                await neighbour.create("Hello")
                assert (await neighbour.rest())[-1]["type"] == "response.incomplete"
            seconds = loop.time() - emptied
            flooding.ws.transport.abort()
            assert len(steps) <= 4 * (rate * seconds + 2), "of each frame some steps, and of no other frame one"


async def test_a_flood_of_connections_without_a_key_takes_no_place_and_leaves_nothing(serve):
    key = {"Authorization": "Bearer secret"}
    async with serve(api_key="secret", max_sockets=4) as server, server.socket(additional_headers=key) as neighbour:
        crowd = [await stalled(server, UPGRADE * 2) for _ in range(200)]
        try:
            await neighbour.create("Hello")
            assert (await neighbour.rest())[-1]["type"] == "response.incomplete"
            for client in crowd:
                said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 12), DEADLINE)
                assert said == b"HTTP/1.1 401"
            assert server.app[PLACES].taken == len(server.app[CONNECTIONS]) == 1
        finally:
            for client in crowd:
                client.close()
        await eventually(lambda: len(server.runner.server.connections) == 1)


@pytest.mark.parametrize("said", [PING, NOTHING])
async def test_one_who_talks_and_never_reads_is_cut_off(serve, said):
    async with serve() as server:
        small_buffers(server)
        server.service.send_seconds, server.service.frames_per_second = 0.3, 100_000.0
        client = await stalled(server, UPGRADE)
        loop = asyncio.get_running_loop()
        try:
            await eventually(lambda: len(server.app[CONNECTIONS]) == 1)

            async def talk():
                while True:
                    await loop.sock_sendall(client, said * 100)

            with pytest.raises(ConnectionError):
                await asyncio.wait_for(talk(), DEADLINE)
            await eventually(lambda: not server.app[CONNECTIONS])
        finally:
            client.close()


async def test_so_many_sockets_are_open_and_no_more(serve):
    """Of one tenant, and in all; one that closes makes room."""
    async with serve(max_sockets=3, max_sockets_per_tenant=2) as server:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        async with server.socket():
            async with server.socket():
                answer = await server.get("/v1/responses", headers=upgrade)
                assert answer.refusal == (429, "rate_limit_exceeded", None)
                assert float(answer.headers["retry-after-ms"]) > 0 and answer.headers["x-should-retry"] == "true"
            await eventually(lambda: len(server.app[CONNECTIONS]) == 1)
            async with server.socket() as socket:
                await socket.create("Hello")
                assert (await socket.rest())[-1]["type"] == "response.incomplete"
        assert b'chatpager_refused_total{code="rate_limit_exceeded"} 1.0' in (await server.get("/metrics")).body
    async with serve(max_sockets=1) as server, server.socket():
        answer = await server.get("/v1/responses", headers=upgrade)
        assert answer.refusal == (503, "server_is_overloaded", None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "Hello", **GREEDY}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
    ],
)
async def test_a_turn_beyond_a_tenant_s_share(serve, path, body):
    async with serve(hub={"max_turns_per_tenant": 1}) as server, server.socket() as socket:
        server.gate.hold()
        await socket.create("Hello")
        await server.live_turn()
        answer = await server.post(path, body)
        assert answer.status == 429 and answer.json["error"]["type"] == "rate_limit_error"
        assert (answer.headers["retry-after-ms"], answer.headers["x-should-retry"]) == ("1000", "true")
        server.gate.open()
        assert (await socket.rest())[-1]["type"] == "response.incomplete"
        assert b'chatpager_refused_total{code="rate_limit_exceeded"} 1.0' in (await server.get("/metrics")).body
        assert (await server.post(path, body)).status == 200


async def test_a_socket_that_is_refused_takes_no_place(serve):
    async with serve(max_sockets=1) as server:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "1"}
        for _ in range(3):
            assert (await server.get("/v1/responses", headers=upgrade)).status == 400
            assert (await server.get("/v1/responses?response_id=a&starting_after=x", headers=upgrade)).status == 400
        async with server.socket():
            with pytest.raises(Overloaded):
                server.app[PLACES].take("default")
        await eventually(lambda: not server.app[PLACES].taken)
