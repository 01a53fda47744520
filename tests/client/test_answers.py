"""Answers that are left early, cancelled, or cut off."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import serve as serve_websocket

from chatpager import AsyncClient
from chatpager.client import ClientError, Created, Ended, Reply, Session, Text, UsageError
from chatpager.client.answer import Answer
from chatpager.server.websocket import CONNECTIONS
from tests.server.test_crash import after_a_crash
from tests.serving import DEADLINE, GREEDY, eventually

LONG = {**GREEDY, "max_output_tokens": 300}


@pytest.fixture
async def session(server):
    async with asyncio.timeout(DEADLINE), AsyncClient(server.url) as client:
        yield await client.session()


async def test_what_stands_in_a_log_says_nothing_of_what_was_said(session, server):
    async with session.send("My secret is rain.", **GREEDY) as answer:
        assert repr(answer) == "<Answer <Reply no id, in_progress, 0 characters>>"
        said = "".join([piece async for piece in answer])
    reply = answer.reply
    used = f"{reply.input_tokens} tokens in (0 cached), 8 out"
    assert repr(reply) == f"<Reply {reply.id}, incomplete, {len(said)} characters, {used}>"
    assert repr(session) == f"<Session {session.id} at {server.url}>"
    assert repr(AsyncClient(server.url, api_key="hush")) == f"<AsyncClient of {server.url}, with a key>"
    refused = Reply()
    refused.refuse("no " * 100)
    assert len(repr(refused)) < 150 and "refused" in repr(refused)


async def test_leaving_early_ends_the_answer(session, server):
    server.gate.hold(after=4)
    async with session.send("Hello", **LONG) as answer:
        async for _ in answer:
            break
        turn = await server.live_turn()
        await server.held()
    await cancelled(server, turn)
    assert [role for role, _ in await session.history()] == ["user", "assistant"]
    assert (await session.ask("And then?", **GREEDY)).status == "incomplete"


async def cancelled(server, turn):
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "cancelled"


async def test_leaving_without_reading_a_word_ends_it_too(session, server):
    server.gate.hold()
    async with session.send("Hello", **LONG):
        pass
    await eventually(lambda: not server.hub.engine._commands.empty() or not server.hub._admission._places.taken)
    server.gate.open()
    await eventually(lambda: not server.hub._admission._places.taken)
    assert [role for role, _ in await session.history()] in ([], ["user"]), "it had begun by then, or never does"


async def test_an_exception_while_reading_ends_it(session, server):
    server.gate.hold(after=4)
    turns = []

    async def ask():
        async with session.send("Hello", **LONG) as answer:
            async for _ in answer:
                turns.append(await server.live_turn())
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ask()
    await cancelled(server, turns[0])


async def test_cancel_and_read_to_the_end(session, server):
    server.gate.hold(after=4)
    async with session.send("Hello", **LONG) as answer:
        pieces = []
        async for piece in answer:
            pieces.append(piece)
            if len(pieces) == 1:
                await server.held()
                await answer.cancel()
                await eventually(lambda: not server.hub.engine._commands.empty())
                server.gate.open()
    assert answer.reply.status == "cancelled" and answer.reply.text == "".join(pieces)
    assert answer.reply.output_tokens < 300
    await answer.cancel()


async def test_cancel_before_it_has_begun(session, server):
    server.gate.hold()
    async with session.send("Hello", **LONG) as answer:
        await answer.cancel()
        reading = asyncio.create_task(events(answer))
        await eventually(lambda: not server.hub.engine._commands.empty() or reading.done())
        server.gate.open()
        assert (await reading)[-1] == Ended("cancelled")
    assert (answer.reply.status, answer.reply.error, answer.reply.text) == ("cancelled", None, "")


async def events(answer):
    return [event async for event in answer.events()]


@asynccontextmanager
async def telling(*frames):
    """The address of a server that answers a create with the first of ``frames``, and a cancel with the rest."""

    async def answer(socket):
        await socket.recv()
        await socket.send(json.dumps(frames[0]))
        await socket.recv()
        for frame in frames[1:]:
            await socket.send(json.dumps(frame))
        await socket.wait_closed()

    async with serve_websocket(answer, "127.0.0.1", 0, subprotocols=["chatpager.v1"]) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


REFUSED = {"message": "no response 'resp_1' is running", "code": "response_not_found"}
TOO_LATE = {"type": "error", "status": 404, "error": REFUSED}


async def test_a_cancel_that_comes_too_late_loses_nothing_of_the_answer():
    end = {"id": "resp_1", "status": "completed", "usage": None}
    frames = [
        {"type": "response.created", "response": {"id": "resp_1"}},
        TOO_LATE,
        {"type": "response.output_text.delta", "delta": "Hello"},
        {"type": "response.completed", "response": end},
    ]
    async with (
        asyncio.timeout(DEADLINE),
        telling(*frames) as url,
        AsyncClient(url) as client,
        Answer(client, {"input": "Hi"}) as answer,
    ):
        assert await anext(answer.events()) == Created("resp_1")
        await answer.cancel()
        assert await collect(answer) == ["Hello"]
    assert (answer.reply.status, answer.reply.text) == ("completed", "Hello")


async def collect(answer):
    return [piece async for piece in answer]


async def test_an_answer_that_was_read_is_not_cancelled(session, server):
    async with session.send("Hello", **GREEDY) as answer:
        await collect(answer)
        assert await collect(answer) == []
    assert answer.reply.status == "incomplete" and not server.hub.turns


async def test_a_lost_connection_costs_nothing_of_the_answer(session, server):
    server.gate.hold(after=4)
    async with session.send("Hello", **GREEDY) as answer:
        pieces = []
        async for piece in answer:
            pieces.append(piece)
            if len(pieces) in (1, 3):
                answer._socket.transport.abort()
                server.gate.open()
    assert (answer.reply.status, answer.reply.text) == ("incomplete", "".join(pieces))
    assert (await session.history())[-1] == ("assistant", answer.reply.text)


async def test_a_socket_that_grew_old_costs_nothing_of_the_answer(serve):
    async with serve() as server, AsyncClient(server.url) as client:
        session = await client.session()
        server.gate.hold(after=3)
        async with session.send("Hello", **GREEDY) as answer:
            first = answer._socket
            reading = asyncio.create_task(collect(answer))
            await eventually(lambda: answer.reply.id)
            [connection] = server.app[CONNECTIONS]
            connection._spawn(connection._grow_old(0.3))
            await eventually(lambda: answer._socket is not first or reading.done())
            server.gate.open()
            pieces = await reading
        assert (answer.reply.status, answer.reply.text) == ("incomplete", "".join(pieces))
        assert (await session.history())[-1] == ("assistant", answer.reply.text)


async def test_a_connection_that_stays_lost_is_not_the_answer_s_end(server):
    async with asyncio.timeout(DEADLINE), AsyncClient(server.url, resume_pauses=()) as client:
        session = await client.session()
        server.gate.hold(after=4)
        answer = session.send("Hello", **GREEDY)

        async def ask():
            async with answer:
                async for _ in answer:
                    await server.held()
                    answer._socket.transport.abort()

        with pytest.raises(ClientError, match=r"session keeps .*resp_.*items\(\)") as error:
            await ask()
        assert (error.value.code, error.value.status) == ("connection_lost", None)
        assert (answer.reply.status, answer.reply.done) == ("interrupted", True)
        turn = await server.live_turn()
        server.gate.open()
        await server.turn_ended(turn)
        assert len(await session.history()) == 2


async def test_what_has_not_begun_is_not_asked_twice(session, server):
    async with session.send("Hello", **GREEDY) as answer:
        answer._socket.transport.abort()
        with pytest.raises(ClientError, match=r"items\(\).*idempotency_key") as error:
            await collect(answer)
    assert (error.value.code, answer.reply.status) == ("connection_lost", "interrupted")


async def test_an_answer_whose_events_are_gone_is_told_from_the_store(serve):
    async with serve(hub={"replay_seconds": 0.0}) as server, AsyncClient(server.url) as client:
        session = await client.session()
        server.gate.hold(after=4)
        async with session.send("Hello", **GREEDY) as answer:
            pieces = [await anext(aiter(answer))]
            turn = await server.live_turn()
            await answer._socket.close()
            server.gate.open()
            await server.turn_ended(turn)
            pieces += await collect(answer)
        assert (answer.reply.status, answer.reply.text) == ("incomplete", "".join(pieces))
        assert (await session.history())[-1] == ("assistant", answer.reply.text) and answer.reply.output_tokens == 8


async def test_an_answer_whose_server_was_killed_has_failed(session, server, chat_model, tmp_path):
    client = session._client
    server.gate.hold(after=4)
    async with session.send("Hello", **LONG) as answer:
        pieces = [await anext(aiter(answer))]
        await server.held()
        async with after_a_crash(server, chat_model, tmp_path) as restarted:
            client.url = restarted.url
            answer._socket.transport.abort()
            events = [event async for event in answer.events()]
            said = "".join(pieces + [event.text for event in events if isinstance(event, Text)])
            assert (events[-1], said) == (Ended("failed"), (await session.history())[-1][1])
        server.gate.open()
    reply = answer.reply
    assert (reply.text, reply.response["error"]["code"]) == (said, "server_restarted")
    assert reply.error == reply.response["error"]["message"]


def test_what_a_stored_answer_adds():
    reply = Reply()
    reply.text, reply.reasoning = "Hello", "Hm"

    def stored(text, status="failed"):
        thought = {"type": "reasoning", "content": [{"text": "Hmm"}]}
        return {"status": status, "output": [thought, {"type": "message", "content": [{"text": text}]}]}

    assert reply.rest_of(stored("Hello", "in_progress")) == []
    *told, end = reply.rest_of(stored("Hello, Ada"))
    assert [event["delta"] for event in told] == ["m", ", Ada"] and end["type"] == "response.failed"
    thought, end = reply.rest_of(stored("Hel", "cancelled"))
    assert (thought["delta"], end["type"]) == ("m", "response.incomplete"), "what was told stays"


async def test_an_answer_that_is_kept_nowhere_is_over_with_its_connection(session, server):
    server.gate.hold(after=4)
    async with session._client.respond(input="Hello", store=False, **LONG) as answer:
        async for _ in answer:
            break
        answer._cancelling = True
        answer._socket.transport.abort()
        server.gate.open()
        with pytest.raises(ClientError, match="the session keeps"):
            await collect(answer)
    assert answer.reply.status == "interrupted"


async def test_who_accepts_and_leaves_is_not_tried_for_ever():
    connected = []

    async def answer(socket):
        connected.append(socket)
        if len(connected) == 1:
            await socket.recv()
            await socket.send(json.dumps({"type": "response.created", "sequence_number": 0, "response": {"id": "r"}}))

    async with asyncio.timeout(DEADLINE), serve_websocket(answer, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with (
            AsyncClient(url, resume_pauses=(0.0, 0.0)) as client,
            Answer(client, {"input": "Hi"}) as answer,
        ):
            with pytest.raises(ClientError):
                await collect(answer)
    assert len(connected) == 3


async def test_who_says_when_to_come_back_is_tried_again_then():
    """A tenant may have as many sockets as it may while the lost one still counts."""
    clock = asyncio.get_running_loop().time
    refused, let_in = [], []
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "r"}}
    end = {"type": "response.completed", "sequence_number": 1, "response": {"id": "r", "status": "completed"}}

    def busy(connection, request):
        if len(let_in) == 1 and not refused:
            refused.append(clock())
            answer = connection.respond(429, json.dumps({"error": {"message": "too many sockets"}}))
            answer.headers["retry-after-ms"] = "200"
            return answer
        return None

    async def answer(socket):
        let_in.append(clock())
        if len(let_in) == 1:
            await socket.recv()
        await socket.send(json.dumps(created if len(let_in) == 1 else end))

    listening = serve_websocket(answer, "127.0.0.1", 0, subprotocols=["chatpager.v1"], process_request=busy)
    async with asyncio.timeout(DEADLINE), listening as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with (
            AsyncClient(url, resume_pauses=(0.0, 0.0)) as client,
            Answer(client, {"input": "Hi"}) as told,
        ):
            await collect(told)
    assert told.reply.status == "completed" and let_in[1] - refused[0] >= 0.2


async def test_a_stored_answer_is_asked_for_again_when_a_busy_server_says_so():
    sockets, asked = [], []
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "r"}}
    gone = {"type": "chatpager.resumed", "recovered": False}
    stored = {"status": "completed", "output": [{"type": "message", "content": [{"text": "Hello"}]}]}

    def busy(connection, request):
        if request.path != "/v1/responses/r":
            return None
        asked.append(request)
        if len(asked) > 1:
            return connection.respond(200, json.dumps(stored))
        answer = connection.respond(429, json.dumps({"error": {"message": "too many requests"}}))
        answer.headers["retry-after-ms"] = "1"
        return answer

    async def answer(socket):
        sockets.append(socket)
        if len(sockets) == 1:
            await socket.recv()
        await socket.send(json.dumps(created if len(sockets) == 1 else gone))

    listening = serve_websocket(answer, "127.0.0.1", 0, subprotocols=["chatpager.v1"], process_request=busy)
    async with asyncio.timeout(DEADLINE), listening as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncClient(url, resume_pauses=(0.0,)) as client, Answer(client, {"input": "Hi"}) as told:
            assert await collect(told) == ["Hello"]
    assert (told.reply.status, len(asked)) == ("completed", 2)


async def test_a_key_that_is_not_taken_any_more_is_not_tried_again(serve):
    async with serve(api_key="k" * 20) as server, AsyncClient(server.url, api_key="k" * 20) as client:
        session = await client.session()
        server.gate.hold(after=4)
        async with session.send("Hello", **GREEDY) as answer:
            async for _ in answer:
                break
            client._headers = {}
            answer._socket.transport.abort()
            with pytest.raises(ClientError) as refused:
                await collect(answer)
            server.gate.open()
        assert (refused.value.status, answer.reply.status) == (401, "interrupted")


async def test_cancelling_on_a_broken_connection(session, server):
    server.gate.hold(after=4)
    async with session.send("Hello", **LONG) as answer:
        async for _ in answer:
            break
        answer._socket.transport.abort()
        await answer._socket.wait_closed()
        await server.held()
        cancelling = asyncio.create_task(answer.cancel())
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        await cancelling
        await collect(answer)
    assert answer.reply.status == "cancelled"


async def test_a_server_that_goes_away(serve):
    async with serve(drain_seconds=0) as server, AsyncClient(server.url) as client:
        session = await client.session()
        server.gate.hold(after=4)
        async with session.send("Hello", **LONG) as answer:
            async for _ in answer:
                closing = asyncio.ensure_future(server.close())
                await eventually(lambda: server.service.draining)
                server.gate.open()
                break
            await collect(answer)
            await closing
        assert (answer.reply.status, answer.reply.done) == ("failed", True)
        assert "its beginning is kept" in answer.reply.error
        with pytest.raises(ClientError, match="chatpager demo"):
            await session.ask("And then?")


async def test_an_answer_is_entered_once_and_read_inside(session):
    answer = session.send("Hello", **GREEDY)
    with pytest.raises(UsageError, match="enter the answer first"):
        await collect(answer)
    with pytest.raises(UsageError, match="enter the answer first"):
        await answer.cancel()
    async with answer:
        with pytest.raises(UsageError, match="gives another"):
            await answer.__aenter__()
        await collect(answer)
    with pytest.raises(UsageError, match="gives another"):
        await answer.__aenter__()
    with pytest.raises(UsageError, match="block was left"):
        await collect(answer)
    assert len(await session.history()) == 2, "one turn is stored"


@pytest.mark.parametrize("said", [b"Hello", None, 3, {"role": "user", "content": "Hello"}, [b"Hello"], ["Hello"]])
async def test_what_cannot_be_asked(said):
    session = Session(AsyncClient(), "conv_x")
    with pytest.raises(TypeError, match=r"a str or a list of dicts.*; not .*(bytes|NoneType|int|dict|str)"):
        session.send(said)
    with pytest.raises(TypeError, match="bytes is not JSON"):
        session.send([{"role": "user", "content": b"Hello"}])


@pytest.mark.parametrize(
    ("said", "options", "wrong"),
    [("half \udcff", {}, "half of a surrogate pair"), ("Hello", {"temperature": float("nan")}, "not JSON: .*float")],
)
async def test_what_no_json_can_say(said, options, wrong):
    with pytest.raises(TypeError, match=wrong):
        Session(AsyncClient(), "conv_x").send(said, **options)


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("type", r"response\.create"),
        ("stream_id", "own socket"),
        ("input", "first argument"),
        ("conversation", r"client\.session\(id\)"),
        ("previous_response_id", "fork"),
    ],
)
async def test_what_the_session_says_itself_is_no_option(option, instead):
    session = Session(AsyncClient(), "conv_x")
    with pytest.raises(TypeError, match=f"{option} is no option here: .*{instead}"):
        session.send("Hello", **{option: None})
    with pytest.raises(TypeError, match=f"{option} is no option here"):
        await session.ask("Hello", **{option: "x"})
    if option in ("type", "stream_id"):
        with pytest.raises(TypeError, match=f"{option} is no option here"):
            session._client.respond(input="Hello", **{option: "x"})


def test_a_reply_without_an_account():
    reply = Reply()
    assert (reply.status, reply.done, reply.text, reply.receipt) == ("in_progress", False, "", {})
    assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens) == (0, 0, 0)
    assert reply.miss_reason is None and reply.ttft_ms is None
    reply.feed({"type": "chatpager.prefill"})
    assert reply.text == ""
    reply.feed({"type": "response.failed", "response": {"status": "failed", "error": {"message": "no"}, "usage": None}})
    assert (reply.error, reply.done, reply.input_tokens) == ("no", True, 0)
