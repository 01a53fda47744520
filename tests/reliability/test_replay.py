"""A reader that is lost at any event, in any way, finds the rest; and from any place that it names, never a part."""

import random
import struct
from socket import SO_LINGER, SOL_SOCKET

import pytest

from chatpager.engine.messages import CancelRequest
from chatpager.server.websocket import CONNECTIONS
from tests.serving import eventually
from tests.serving_client import sse_events

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
WORDS = " ".join(f"word{i}" for i in range(40))
EVENTS = 16
TOKENS = EVENTS + 8
WANTED = {"max_output_tokens": TOKENS, "temperature": 0}


async def says_goodbye(ws):
    await ws.close(1001)


async def is_reset(ws):
    ws.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RESET)
    ws.transport.abort()


async def just_ends(ws):
    ws.transport.close()


WAYS = [says_goodbye, is_reset, just_ends]


async def lost_after(server, count, way, **more):
    """A running turn whose socket was lost when it had got so many events, and these."""
    server.gate.hold(after=count)
    async with server.socket() as socket:
        await socket.create("Hello", **WANTED, **more)
        turn = await server.live_turn()
        got = [await socket.receive() for _ in range(count)]
        assert turn.stream.ended is None, "it is lost in the middle"
        await way(socket.ws)
    await eventually(lambda: not server.app[CONNECTIONS])
    return turn, got


async def nothing_is_held(server):
    await eventually(lambda: not server.hub.turns)
    return (await server.hub.engine.stats()).memory.active == 0


@pytest.mark.parametrize("way", WAYS)
async def test_lost_at_any_event_the_rest_is_told(serve, way):
    async with serve(lambda prompt: WORDS) as server:
        for count in range(1, EVENTS + 1):  # who was told nothing knows no name to find it by: such a turn may end
            turn, got = await lost_after(server, count, way)
            server.gate.open()
            assert (await server.turn_ended(turn)).status == "incomplete"
            async with server.socket(query=f"?response_id={turn.id}&starting_after={count - 1}") as socket:
                got += await socket.rest()
            assert [event["sequence_number"] for event in got] == list(range(len(got)))
            stored = (await server.get(f"/v1/responses/{turn.id}")).json
            text = "".join(event["delta"] for event in got if event["type"] == "response.output_text.delta")
            assert got[-1]["response"] == stored
            assert text == stored["output"][0]["content"][0]["text"] != ""
            assert await nothing_is_held(server)


@pytest.mark.parametrize("way", WAYS)
async def test_lost_at_any_event_a_turn_ends_that_shall_end_with_its_reader(serve, way, monkeypatch):
    async with serve(lambda prompt: WORDS) as server:
        sent, send = [], server.hub.engine.send
        monkeypatch.setattr(server.hub.engine, "send", lambda command: (sent.append(command), send(command)))
        for count in range(EVENTS + 1):
            turn, _ = await lost_after(server, count, way, chatpager={"on_disconnect": "cancel"})
            await eventually(lambda t=turn: CancelRequest(t.request.id, t.index) in sent)
            server.gate.open()
            assert (await server.turn_ended(turn)).status == "cancelled"
            assert await nothing_is_held(server)


async def test_any_place_is_followed_by_exactly_what_comes_behind_it(server):
    """From -1 on all of it does, and behind the last one the end; what is no place is refused."""
    rng = random.Random(1)
    for tokens in (1, 3, 9):
        told = await server.respond("Hello", max_output_tokens=tokens)
        path = f"{server.url}/v1/responses/{told['id']}?stream=true"
        async with server.http.get(path) as reader:
            whole = [event async for _, event in sse_events(reader.content)]
        assert whole[-1]["response"] == told
        places = [*range(-2, len(whole) + 2), -(10**17) + 1, 10**17, 2**31, *(rng.randint(-99, 99) for _ in range(10))]
        async with server.socket() as socket:
            for after in places:
                await socket.send(type="response.resume", response_id=told["id"], starting_after=after)
                async with server.http.get(f"{path}&starting_after={after}") as reader:
                    if not -1 <= after < len(whole):
                        assert (reader.status, (await socket.receive())["status"]) == (400, 400), after
                        continue
                    rest = whole[after + 1 :] or whole[-1:]
                    assert [event async for _, event in sse_events(reader.content)] == rest
                assert await socket.rest() == rest
