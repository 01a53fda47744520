"""What a client is still writing: computed before it is sent, told in the receipt, and never in anybody's way."""

import asyncio
from functools import partial

import pytest

from chatpager.server.client_events import Draft
from chatpager.server.drafting import Drafts
from chatpager.server.websocket import CONNECTIONS
from tests.looking import look
from tests.serving import DEADLINE, eventually

TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps under the big old tree until the"


async def draft(socket, input, **more):
    await socket.send(type="chatpager.draft", input=input, **more)


async def ask(server, question):
    return await look(server.hub.engine, question)


async def until(server, question):
    """Ask the engine until it says yes."""
    async with asyncio.timeout(DEADLINE):
        while not await ask(server, question):
            pass


async def received(socket):
    """What was sent before has been read: the answer to the last frame is there."""
    await socket.send(type="response.cancel", response_id="resp_x")
    assert (await socket.receive())["error"]["code"] == "response_not_found"


async def drafted(server, socket, input, **more):
    """Send a draft and wait until it is computed."""
    await draft(socket, input, **more)
    await received(socket)
    await eventually(lambda: not any(connection._drafts.waiting for connection in server.app[CONNECTIONS]))
    await until(server, lambda engine: not engine.has_work)


async def receipt(socket):
    return (await socket.rest())[-1]["response"]["chatpager"]["cache"]


async def test_the_turn_finds_what_was_computed_while_it_was_written(server):
    async with server.socket(extended=True) as socket:
        await drafted(server, socket, TEXT)
        await socket.create(TEXT + " morning.")
        cache = await receipt(socket)
    assert cache["draft_tokens"] == cache["device_tokens"] > 0
    assert cache["device_tokens"] + cache["computed_tokens"] == cache["prompt_tokens"]
    assert cache["computed_tokens"] < 40
    assert cache["miss_reason"] != "evicted"


async def test_a_draft_goes_on_from_its_conversation(server):
    conversation = await server.conversation()
    async with server.socket(extended=True) as socket:
        await socket.create("Hello", conversation=conversation)
        await socket.rest()
        await drafted(server, socket, TEXT, conversation=conversation)
        await socket.create(TEXT + " morning.", conversation=conversation)
        cache = await receipt(socket)
    assert 0 < cache["draft_tokens"] < cache["device_tokens"]


async def test_the_answer_is_the_same_with_a_draft(server):
    async with server.socket(extended=True) as socket:
        await drafted(server, socket, TEXT)
        await socket.create(TEXT + " morning.", store=False)
        told = (await socket.rest())[-1]["response"]["output"]
    alone = (await server.respond(TEXT + " morning.", chatpager={"priority": 1}))["output"]
    assert told[0]["content"] == alone[0]["content"]


async def test_nothing_is_kept_of_a_draft_that_was_given_up(server):
    async with server.socket(extended=True) as socket:
        await drafted(server, socket, TEXT)
        await draft(socket, "")
        await until(server, lambda engine: not engine.leases.heads)
        await drafted(server, socket, TEXT.swapcase())
        await until(server, lambda engine: engine.leases.heads)
    await until(server, lambda engine: not engine.leases.heads)
    assert (await server.get("/v1/conversations?order=desc")).json["data"] == []


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": [{"type": "nonsense"}]}, "invalid_request", "input[0].type"),
        ({"input": TEXT, "model": "x"}, "model_not_found", "model"),
        ({"input": TEXT, "conversation": "conv_x"}, "conversation_not_found", "conversation"),
        ({"input": TEXT, "conversation": ["c"]}, "invalid_request", "conversation"),
        ({"input": TEXT, "previous_response_id": "resp_x"}, "previous_response_not_found", "previous_response_id"),
        ({"input": TEXT, "temperature": "hot"}, "invalid_request", "temperature"),
        ({"input": 7}, "invalid_request", "input"),
        ({"input": False}, "invalid_request", "input"),
    ],
)
async def test_one_that_no_response_could_come_of_is_refused_by_the_field(server, body, code, param):
    async with server.socket(extended=True) as socket:
        await draft(socket, **body)
        error = await socket.receive()
        assert (error["type"], error["about"], error["error"]["code"]) == ("error", "chatpager.draft", code)
        assert error["error"]["param"] == param
        await socket.create("Hello")
        frames = await socket.rest()
    assert frames[0]["type"] == "response.created" and frames[-1]["type"] != "error"


async def test_one_whose_response_would_be_refused_for_now_is_passed_over(server):
    async with server.socket(extended=True) as socket:
        await draft(socket, "word " * 3000)
        await received(socket)
        await eventually(lambda: not any(connection._drafts.waiting for connection in server.app[CONNECTIONS]))
        await received(socket)


async def test_what_was_passed_on_or_has_a_successor_is_let_go_once():
    drafts, gone = Drafts(None, "ann", "a socket"), []
    assert [drafts.add(Draft(None, partial(gone.append, name))) for name in "abc"] == [True, False, False]
    assert gone == ["b"]
    await drafts.pass_on(None)
    assert gone == ["b", "a", "c"] and not drafts.waiting


async def test_while_the_conversation_is_answered_there_is_no_draft_of_it(server):
    conversation = await server.conversation()
    server.gate.hold(after=2)
    async with server.socket(extended=True) as socket, server.socket(extended=True) as other:
        await socket.create("a", conversation=conversation, max_output_tokens=40)
        await server.held()
        await draft(other, TEXT, conversation=conversation)
        await received(other)
        await eventually(lambda: not any(connection._drafts.waiting for connection in server.app[CONNECTIONS]))
        server.gate.open()
        await socket.rest()
        await until(server, lambda engine: not engine.has_work)
        await socket.create(TEXT, conversation=conversation)
        assert (await receipt(socket))["draft_tokens"] == 0


async def test_of_sockets_that_close_without_a_draft_the_engine_hears_nothing(server, monkeypatch):
    ended = []
    monkeypatch.setattr(server.hub.drafting, "end", ended.append)
    async with server.socket(extended=True) as socket, server.socket():
        await socket.create("Hello")
        await socket.rest()
    await eventually(lambda: not server.app[CONNECTIONS])
    assert ended == []


async def test_many_drafts_at_once_end_with_the_last(server):
    async with server.socket(extended=True) as socket:
        for end in range(10, len(TEXT)):
            await draft(socket, TEXT[:end])
        await drafted(server, socket, TEXT)
        await socket.create(TEXT + " morning.")
        assert (await receipt(socket))["draft_tokens"] >= 16


async def test_other_clients_have_no_drafts(server):
    async with server.socket() as socket:
        await draft(socket, TEXT)
        assert (await socket.receive())["error"]["code"] == "unsupported_event"
