"""What arrives on all connections together has a bound, and nobody's share of it is all."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError

from chatpager.errors import Overloaded, RateLimited
from chatpager.server.arriving import ARRIVING, FREE, Arriving, FrameCount
from chatpager.sessions.fair_places import FairPlaces
from tests.server.stalling import UPGRADE
from tests.serving import DEADLINE, eventually

MASK = b"\0" * 4
ROOM = 1 << 20


def frame(first, size):
    extended = bytes([first, 0xFF]) + size.to_bytes(8, "big") + MASK
    return (extended if size >= 126 else bytes([first, 0x80 | size]) + MASK) + b"a" * size


class Heard:
    def __init__(self):
        self.data = b""

    def feed_data(self, data):
        self.data += data
        return False, b""


KINDS = st.sampled_from([0x81, 0x01, 0x00, 0x80, 0x89, 0x8A])


@given(st.lists(st.tuples(KINDS, st.integers(0, 200_000)), max_size=6), st.integers(1, 70_000))
def test_bytes_of_a_message_are_counted_until_it_is_dealt_with(frames, piece):
    places, parser = FairPlaces(1 << 30, called="bytes"), Heard()
    count = FrameCount(Arriving(places, "ann")).before(parser)
    sizes, message, sent = [], 0, b""
    for first, size in frames:
        size = min(size, 125) if first & 8 else size
        sent += frame(first, size)
        message += 0 if first & 8 else size
        if first & 8 or first & 0x80:
            sizes.append(0 if first & 8 else message)
            message = message if first & 8 else 0
    for start in range(0, len(sent), piece):
        count.feed_data(sent[start : start + piece])
    assert parser.data == sent
    left = sum(sizes) + message
    for size in sizes:
        assert places.taken == max(0, left - FREE)
        count.dealt_with()
        left -= size
    assert places.taken == max(0, left - FREE) and left == message
    count.dealt_with()
    count.close()
    assert places.taken == 0
    assert count.feed_data(frame(0x81, 2 * FREE)) == (False, b"")
    assert places.taken == 0 and parser.data == sent


def test_bytes_of_a_message_that_is_kept_are_counted_until_it_is_let_go():
    places = FairPlaces(ROOM, called="bytes")
    count = FrameCount(Arriving(places, "ann")).before(Heard())
    count.feed_data(frame(0x81, 2 * FREE) + frame(0x81, 3 * FREE))
    let_go = count.keep()
    count.dealt_with()
    assert places.taken == 4 * FREE
    count.dealt_with()
    assert places.taken == FREE
    let_go()
    assert places.taken == 0


def test_who_has_no_room_is_refused_once_and_heard_no_more():
    places, parser, told = FairPlaces(ROOM, called="bytes"), Heard(), []
    Arriving(places, "bob").add(FREE + 1000)
    count = FrameCount(Arriving(places, "ann")).before(parser)
    count.refuse = told.append
    for start in range(0, 2 * ROOM, FREE):
        count.feed_data(frame(0x81, 2 * ROOM)[start : start + FREE])
    assert [type(error) for error in told] == [RateLimited] and len(parser.data) <= ROOM
    count.close()
    assert places.taken == 1000
    with pytest.raises(Overloaded):
        Arriving(places, "bob").add(2 * ROOM)


async def test_bodies_beyond_the_room_are_refused_and_short_ones_are_not(serve):
    async with serve(max_pending_bytes=ROOM, max_message_bytes=2 * ROOM) as server:
        places = server.app[ARRIVING]
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {ROOM}\r\n\r\n".encode())
        writer.write(b" " * (ROOM * 3 // 4))
        await eventually(lambda: places.taken == ROOM * 3 // 4 - FREE)
        long = json.dumps({"input": "a" * (ROOM // 2)})
        refused = await server.post("/v1/responses", long)
        assert refused.refusal == (429, "rate_limit_exceeded", None)
        assert refused.headers["retry-after-ms"] == "1000" and "bytes of requests" in refused.error["message"]
        assert (await server.respond("Hello"))["status"] == "incomplete", "it is short"
        assert places.taken == ROOM * 3 // 4 - FREE
        writer.transport.abort()
        await eventually(lambda: places.taken == 0)
        assert (await server.post("/v1/responses", long)).refusal[1] == "context_length_exceeded"
        assert places.taken == 0


async def test_frames_beyond_the_room_end_their_socket_and_leave_its_answers(serve):
    async with serve(max_pending_bytes=ROOM, max_message_bytes=2 * ROOM) as server, server.socket() as neighbour:
        places = server.app[ARRIVING]
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(UPGRADE + frame(0x01, ROOM - 3 * FREE))  # a fragment that nothing follows
        # a fragment that nothing follows
        await eventually(lambda: places.taken >= ROOM - 4 * FREE)
        async with server.socket() as socket:
            await socket.create("a" * ROOM)
            refused = await socket.receive()
            assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
            assert refused["retry_after_ms"] == 1000
            with pytest.raises(ConnectionClosedError) as closed:
                await asyncio.wait_for(socket.receive(), DEADLINE)
            assert closed.value.rcvd.code == 1013
        await neighbour.create("Hello")
        assert (await neighbour.rest())[-1]["type"] == "response.incomplete"
        writer.transport.abort()
        await eventually(lambda: places.taken == 0)
        assert len(server.app[ARRIVING]._taken) == 0


async def test_frames_that_wait_in_a_lane_count_until_they_have_begun(serve):
    async with serve(max_pending_bytes=ROOM, max_message_bytes=2 * ROOM) as server:
        places, long = server.app[ARRIVING], "a" * (ROOM // 3)
        server.gate.hold()
        async with server.socket() as socket:
            await socket.create("Hello")
            await server.held()
            for _ in range(2):
                await socket.create(long)
            await eventually(lambda: places.taken > 2 * len(long) - FREE)
            await socket.create(long)
            refused = (await socket.until("error"))[-1]
            assert (refused["status"], refused["retry_after_ms"]) == (429, 1000)
        await eventually(lambda: places.taken == 0)
        server.gate.open()
        async with server.socket() as socket:
            for _ in range(2):
                await socket.create(long)
                assert (await socket.receive())["error"]["code"] == "context_length_exceeded"
                await eventually(lambda: places.taken == 0)
