"""The Responses WebSocket with a real client: what a frame leads to."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed

from chatpager.engine.servant import Asked
from tests.looking import Look
from tests.serving import GREEDY, eventually

ENDS = ("response.completed", "response.incomplete", "response.failed")


async def test_a_response_on_a_socket(serve):
    async with serve(lambda prompt: "naïve 你好 😀") as server, server.socket() as socket:
        await socket.send(type="response.create", input="Hello", temprature=1)
        frames = await socket.rest()
        assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
        assert frames[0]["type"] == "response.created"
        response = frames[-1]["response"]
        assert "".join(frame.get("delta", "") for frame in frames) == "naïve 你好 😀"
        assert response["output"][0]["content"][0]["text"] == "naïve 你好 😀"
        assert response["chatpager"]["warnings"] == ["unknown field 'temprature' was passed over"]
        assert (await server.get("/v1/responses/" + response["id"])).json == response


async def test_a_turn_knows_the_request_that_began_it(server):
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create("Hello")
        turn = await server.live_turn()
        assert turn.request_id == socket.ws.response.headers["x-request-id"]
        server.gate.open()
        await socket.rest()
    answers = await asyncio.gather(*(server.post("/v1/responses", {"input": "a", **GREEDY}) for _ in range(3)))
    for answer in answers:
        told = server.hub.turns.told("default", answer.json["id"])
        assert told.request_id == answer.headers["x-request-id"]


async def test_a_socket_says_the_same_as_http(server):
    async with server.socket() as socket:
        await socket.create("Hello")
        told = (await socket.rest())[-1]["response"]
    assert told["output"][0]["content"] == (await server.respond("Hello"))["output"][0]["content"]


async def test_several_creates_are_served_in_order(server):
    conversation = await server.conversation()
    async with server.socket() as socket:
        for word in ("one", "two", "three"):
            await socket.create(word, conversation=conversation)
        ids = []
        for _ in range(3):
            frames = await socket.rest()
            [created] = {frame["response"]["id"] for frame in frames if "response" in frame}
            ids.append(created)
    items = await server.items(conversation)
    assert [item["content"][0]["text"] for item in items[::2]] == ["one", "two", "three"]
    assert [item["chatpager"]["response_id"] for item in items[1::2]] == ids


async def test_a_refused_create_between_two_others(server):
    async with server.socket() as socket:
        await socket.create("one")
        await socket.create("two", conversation="conv_x")
        await socket.create("three", tools=[{}])
        await socket.create("four")
        assert (await socket.rest())[-1]["type"] in ENDS
        refused = [await socket.receive() for _ in range(2)]
        assert [(frame["status"], frame["error"]["code"]) for frame in refused] == [
            (404, "conversation_not_found"), (400, "invalid_request"),
        ]  # fmt: skip
        assert (await socket.rest())[-1]["type"] in ENDS


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ("[" * 10_000, "invalid_json"),
        ("[" * 100_000, "invalid_request"),
        ("{}", "unsupported_event"),
        ('{"type": "response.steer"}', "unsupported_event"),
        ('{"type": "response.cancel"}', "invalid_request"),
        ('{"type": "response.cancel", "response_id": "resp_x"}', "response_not_found"),
        (b'{"type": "response.create", "input": "a"}', "invalid_request"),
        ('{"type": "response.create"}', "invalid_request"),
        ('{"type": "response.create", "input": "a", "model": "x"}', "model_not_found"),
    ],
)
async def test_a_frame_that_is_refused_is_answered_and_the_socket_lives_on(server, frame, code):
    async with server.socket() as socket:
        await socket.ws.send(frame)
        error = await socket.receive()
        assert (error["type"], error["error"]["code"]) == ("error", code)
        assert set(error) - {"about"} == {"type", "status", "error"}
        assert set(error["error"]) == {"message", "type", "param", "code"}
        await socket.create("Hello")
        assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_an_oversize_frame_ends_the_connection_with_1009(serve):
    async with serve(max_message_bytes=2000) as server:
        async with server.socket() as socket:
            await socket.send(type="response.create", input="a" * 3000)
            assert (await socket.receive())["error"]["code"] == "request_too_large"
            with pytest.raises(ConnectionClosed) as closed:
                await socket.receive()
        assert closed.value.rcvd.code == 1009
        async with server.socket() as socket:
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_the_prefill_is_told_to_those_who_asked_for_our_events(serve):
    async with serve(step=16) as server:
        server.service.prefill_seconds = 0.0
        async with server.socket(extended=True) as socket:
            assert socket.ws.subprotocol == "chatpager.v1"
            await socket.create("word " * 40, store=False)
            frames = await socket.rest()
        told = [frame for frame in frames if frame["type"] == "chatpager.prefill"]
        total = frames[-1]["response"]["usage"]["input_tokens"]
        assert [frame["done"] for frame in told] == list(range(16, total, 16))
        assert {frame["total"] for frame in told} == {total}
        assert frames.index(told[0]) == 2
        async with server.socket() as socket:
            assert socket.ws.subprotocol is None
            await socket.create("other " * 40)
            assert "chatpager.prefill" not in [frame["type"] for frame in await socket.rest()]


async def test_the_prefill_is_not_told_oftener_than_anybody_can_see(serve):
    async with serve(step=16) as server, server.socket(extended=True) as socket:
        server.service.prefill_seconds = 60.0
        await socket.create("word " * 40)
        assert [frame["type"] for frame in await socket.rest()].count("chatpager.prefill") == 1


async def test_other_subprotocols_are_passed_over(server):
    address = server.url.replace("http", "ws") + "/v1/responses"
    async with server.http.ws_connect(address, protocols=["realtime", "chatpager.v1"]) as ws:
        assert ws.protocol == "chatpager.v1"
    async with server.http.ws_connect(address, protocols=["realtime"]) as ws:
        assert ws.protocol is None


async def test_the_socket_s_path_without_a_socket(server):
    answer = await server.get("/v1/responses", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert answer.refusal == (400, "invalid_request", None)


# -- cancel -----------------------------------------------------------------------------------------------------------

LONG = {**GREEDY, "max_output_tokens": 300}


@pytest.mark.parametrize("steps", [0, 1, 2, 5], ids=["queued", "prefill", "first token", "decode"])
async def test_cancel_in_every_phase(serve, steps):
    async with serve(step=16) as server, server.socket() as socket:
        server.gate.hold(after=steps)
        await socket.create("Hello, " * 5, **LONG)
        created = await socket.receive()
        await server.held()
        await socket.send(type="response.cancel", response_id=created["response"]["id"])
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        last = (await socket.rest())[-1]
        assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
        assert last["response"]["usage"]["output_tokens"] <= 5
        await socket.create("And then?", previous_response_id=created["response"]["id"])
        assert (await socket.rest())[-1]["response"]["status"] == "incomplete"


async def test_cancel_from_another_socket(server):
    async with server.socket() as one, server.socket() as other:
        server.gate.hold(after=3)
        await one.create("Hello", **LONG)
        turn = await server.live_turn()
        await server.held()
        await other.send(type="response.cancel", response_id=turn.id)
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        assert (await one.rest())[-1]["response"]["status"] == "cancelled"


async def test_a_mistake_of_ours_refuses_the_create_and_the_socket_lives_on(server):
    async def broken(request):
        raise ZeroDivisionError

    async with server.socket() as socket:
        submit, server.hub.submit_choices = server.hub.submit_choices, broken
        await socket.create("Hello")
        error = await socket.receive()
        assert (error["status"], error["error"]["code"]) == (500, "internal_error")
        assert "division" not in json.dumps(error)
        server.hub.submit_choices = submit
        await socket.create("Hello")
        assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_the_engine_s_end_is_told_and_later_creates_are_refused(server):
    async with server.socket() as socket:
        server.gate.hold(after=2)
        await socket.create("Hello", **LONG)
        await server.held()
        server.hub.engine._commands.put(Asked(0, Look(lambda engine: setattr(engine.scheduler, "schedule", None))))
        server.gate.open()
        last = (await socket.rest())[-1]
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "engine_stopped")
        await socket.create("Hello")
        error = await socket.receive()
        assert (error["status"], error["error"]["code"]) == (503, "engine_stopped")
    answer = await server.post("/v1/responses", {"input": "a"})
    assert answer.refusal == (503, "engine_stopped", None)
    assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers
    assert (await server.get("/health")).json["status"] == "stopped"
    assert b"chatpager_turns_total" in (await server.get("/metrics")).body


async def test_many_sockets_at_once(server):
    async def one(name):
        async with server.socket() as socket:
            await socket.create(name)
            return (await socket.rest())[-1]["response"]["status"]

    assert await asyncio.gather(*(one(f"socket {i}") for i in range(12))) == ["incomplete"] * 12
    assert b"chatpager_ws_connections 0.0" in await eventually_metrics(server)


async def eventually_metrics(server):
    await eventually(lambda: server.service.metrics.sockets._value.get() == 0)
    return (await server.get("/metrics")).body
