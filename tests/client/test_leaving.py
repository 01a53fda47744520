"""Answers that are left before their end: the turn ends with them, unless it was asked to go on."""

import asyncio
import json

import pytest
from websockets.asyncio.server import serve as serve_websocket

from chatpager import AsyncClient
from chatpager.client import UsageError
from chatpager.client.answer import Answer
from chatpager.server.websocket import CONNECTIONS
from tests.serving import DEADLINE, GREEDY, eventually

SOON = 5.0
"""Seconds, half of those after which a closing handshake is given up."""


@pytest.fixture
async def session(server):
    async with asyncio.timeout(DEADLINE), AsyncClient(server.url) as client:
        yield await client.session()


async def test_leaving_does_not_wait_for_what_was_not_read():
    came = []

    async def answer(socket):
        await socket.recv()
        await socket.send(json.dumps({"type": "response.created", "response": {"id": "resp_1"}}))
        for _ in range(100):
            await socket.send(json.dumps({"type": "response.output_text.delta", "delta": "word "}))
        came.append(json.loads(await socket.recv()))
        await socket.wait_closed()

    async with serve_websocket(answer, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with AsyncClient(url) as client:
            left = Answer(client, {"input": "Hi"})
            await left.__aenter__()
            await anext(aiter(left))
            async with asyncio.timeout(SOON):
                await left.__aexit__(None, None, None)
    assert came == [{"type": "response.cancel", "response_id": "resp_1"}]
    assert (left.reply.status, left.reply.text) == ("interrupted", "word ")
    with pytest.raises(UsageError, match="block was left"):
        await anext(aiter(left))


async def test_what_waits_for_its_conversation_never_begins_once_it_is_left(session, server):
    server.gate.hold(after=2)
    first = asyncio.create_task(session.ask("one", **GREEDY))
    await server.live_turn()
    async with asyncio.timeout(SOON), session.send("two", **GREEDY) as answer:
        await eventually(lambda: server.hub._admission._places.taken == 2)
    assert answer.reply.status == "interrupted"
    await eventually(lambda: server.hub._admission._places.taken == 1)
    server.gate.open()
    await first
    assert [text for role, text in await session.history() if role == "user"] == ["one"]


async def test_an_answer_that_is_to_go_on_is_only_left(session, server):
    server.gate.hold(after=4)
    async with session.send("Hello", **GREEDY, chatpager={"on_disconnect": "continue"}) as answer:
        await anext(aiter(answer))
        turn = await server.live_turn()
    await eventually(lambda: not server.app[CONNECTIONS])
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "incomplete"
    assert (answer.reply.id, answer.reply.status) == (turn.id, "interrupted")
