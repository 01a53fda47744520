"""AsyncClient against a real server: sessions are opened, continued, listed and read."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from chatpager import AsyncClient
from chatpager.client import ClientError, Session, UsageError
from chatpager.store import new_key
from tests.serving import DEADLINE, GREEDY


@pytest.fixture
async def client(server):
    async with asyncio.timeout(DEADLINE), AsyncClient(server.url) as client:
        yield client


async def test_a_session(serve):
    async with serve(lambda prompt: "Hello, 你好") as server, AsyncClient(server.url + "/v1/") as client:
        session = await client.session(title="About Ada")
        async with session.send("My name is Ada.") as answer:
            pieces = [piece async for piece in answer]
        assert "".join(pieces) == answer.reply.text == "Hello, 你好" and len(pieces) > 1
        assert (answer.reply.status, answer.reply.done, answer.reply.error) == ("completed", True, None)
        assert await session.history() == [("user", "My name is Ada."), ("assistant", "Hello, 你好")]
        [row] = await client.sessions()
        assert (row["id"], row["metadata"]["title"]) == (session.id, "About Ada")


async def test_the_next_turn_is_warm(client):
    session = await client.session()
    first = await session.ask("The quick brown fox jumps over the lazy dog.", **GREEDY)
    second = await session.ask("And then?", **GREEDY)
    assert (first.status, first.miss_reason, first.cached_tokens) == ("incomplete", "cold", 0)
    assert second.miss_reason is None and second.receipt["device_tokens"] == second.cached_tokens > 0
    assert first.input_tokens > 10 and first.output_tokens == 8 and first.ttft_ms > 0
    assert first.response["id"] == first.id


async def test_a_stored_session_is_continued(client):
    session = await client.session()
    await session.ask("Hello", **GREEDY)
    again = await client.session(session.id)
    assert again.id == session.id and len(await again.history()) == 2


async def test_a_long_session_is_read_whole(client, server):
    items = [{"role": "user", "content": str(n)} for n in range(250)]
    session = await client.session(await server.conversation(items=items))
    assert await session.history() == [("user", str(n)) for n in range(250)]
    assert [item["id"] for item in await session.items()] == [i["id"] for i in await all_items(server, session.id)]


async def all_items(server, conversation):
    pages = await server.items(conversation, "order=asc&limit=100")
    while len(pages) % 100 == 0:
        pages += await server.items(conversation, f"order=asc&limit=100&after={pages[-1]['id']}")
    return pages


async def test_a_session_goes_back_and_is_made_short(client):
    session = await client.session()
    first, second = await session.ask("One.", **GREEDY), await session.ask("Two.", **GREEDY)
    await session.rewind(first.id)
    assert await session.history() == [("user", "One."), ("assistant", first.text)]
    await session.rewind(second.id)
    await session.compact("One was said.")
    kept = [("user", "Two."), ("assistant", second.text)]
    assert await session.history() == [("user", "One was said."), *kept]
    await session.compact("One was said, then two.", keep=0, role="assistant")
    assert await session.history() == [("assistant", "One was said, then two.")]
    with pytest.raises(ClientError, match="nothing is older"):
        await session.compact("Again.", keep=9)


async def test_a_session_is_forked_pinned_let_go_and_deleted(client):
    session = await client.session()
    first = await session.ask("The quick brown fox jumps over the lazy dog.", **GREEDY)
    await session.ask("And then?", **GREEDY)
    child, whole = await session.fork(first.id), await session.fork()
    assert len(await child.history()) == 2 and await whole.history() == await session.history()
    granted = await session.pin(30, tokens=16)
    assert (granted["strength"], granted["tokens"]) == ("hard", 16)
    assert (await session.pin(soft=True))["strength"] == "soft"
    found = await session.cache()
    assert found["device_tokens"] == found["tokens"] > 16
    assert {lease["strength"] for lease in found["leases"]} == {"soft"}, "the later one stands"
    await session.unpin()
    assert (await session.cache())["leases"] == []
    await session.delete()
    with pytest.raises(ClientError, match="no conversation"):
        await session.cache()


async def test_sessions_the_latest_first(client):
    made = [(await client.session(title=str(n))).id for n in range(3)]
    last = await client.session(made[0])
    await last.ask("Hello", **GREEDY)
    assert (await client.sessions(limit=1))[0]["id"] == made[0]
    assert {row["id"] for row in await client.sessions()} == set(made)


async def test_many_answers_at_once(client):
    sessions = [await client.session() for _ in range(6)]
    replies = await asyncio.gather(*(session.ask("Hello", **GREEDY) for session in sessions))
    assert len({reply.text for reply in replies}) == 1 and len({reply.id for reply in replies}) == 6


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["conv_x", "../models", "a b/c?d#e", "%00"])
async def test_a_session_that_is_not_there(client, session):
    with pytest.raises(ClientError) as error:
        await client.session(session)
    assert (error.value.code, error.value.status) == ("conversation_not_found", 404)


async def test_a_refused_turn(client):
    session = await client.session()
    with pytest.raises(ClientError, match="required field `name`") as error:
        await session.ask("Hello", tools=[{"type": "function"}])
    assert (error.value.code, error.value.status) == ("invalid_request", 400)
    async with session.send("Hello", model="other") as answer:
        with pytest.raises(ClientError):
            await anext(aiter(answer))
    assert (answer.reply.status, answer.reply.done) == ("refused", True)
    assert "is not served here" in answer.reply.error


async def test_what_is_too_large_is_refused_as_such(serve):
    async with serve(max_message_bytes=2000) as server, AsyncClient(server.url) as client:
        session = await client.session()
        for length in (3000, 5_000_000):
            with pytest.raises(ClientError, match="larger than 2000 bytes") as error:
                await session.ask("x" * length)
            assert (error.value.code, error.value.status) == ("request_too_large", 413)


async def test_what_may_go_well_later_says_when(serve):
    async with serve(max_sockets=1) as server, AsyncClient(server.url) as client:
        session = await client.session()
        first = await client.connect()
        with pytest.raises(ClientError) as error:
            await client.connect()
        assert (error.value.status, error.value.retry_after) == (503, 1.0)
        await first.close()
        await server.hub.drain(0)
        calls = (client.request("POST", "/v1/responses", {"input": "Hello"}), session.ask("Hello"))
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert (error.code, error.retry_after) == ("server_is_overloaded", 5.0)
        with pytest.raises(ClientError) as error:
            await client.session("conv_none")
        assert error.value.retry_after is None


@pytest.mark.parametrize("lost", [1, 2])
async def test_what_a_lost_connection_may_have_begun_is_asked_again_with_its_key(lost):
    asked = []

    async def answer(request):
        asked.append((request.path, request.headers["Idempotency-Key"]))
        if len(asked) <= lost:
            request.transport.abort()
        return web.json_response({"id": "conv_1"})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    async with TestServer(app) as server, AsyncClient(str(server.make_url("/"))) as client:
        if lost == 1:
            session = await client.session()
            await session.fork()
            await session.compact("Short.")
            keys = [key for _, key in asked]
            assert keys[0] == keys[1] and len(set(keys)) == 3
        else:
            with pytest.raises(ClientError, match="look before") as error:
                await client.session()
            assert error.value.code == "connection_lost" and len(asked) == 2


async def test_a_wrong_key(serve):
    async with serve(api_key="secret") as server:
        for key in (None, "wrong"):
            async with AsyncClient(server.url, api_key=key) as client:
                with pytest.raises(ClientError) as error:
                    await client.session()
                assert (error.value.code, error.value.status) == ("invalid_api_key", 401)
                with pytest.raises(ClientError) as error:
                    await client.connect()
                assert (error.value.code, error.value.status) == ("invalid_api_key", 401)
        async with AsyncClient(server.url, api_key="secret") as client:
            assert (await (await client.session()).ask("Hello", **GREEDY)).status == "incomplete"


async def test_a_stored_key_opens_what_is_its_tenants(server):
    keys = [new_key(tenant, "", "user", 1) for tenant in ("ann", "bob")]
    for row, _ in keys:
        await server.service.store.keys.create(row)
    ann, bob = (AsyncClient(server.url, api_key=key) for _, key in keys)
    async with ann, bob:
        session = await ann.session()
        assert (await session.ask("Hello", **GREEDY)).status == "incomplete"
        assert [one["id"] for one in await ann.sessions()] == [session.id]
        assert await bob.sessions() == []
        with pytest.raises(ClientError) as error:
            await bob.session(session.id)
        assert error.value.code == "conversation_not_found"


async def test_a_failed_answer_tells_why(serve):
    def broken(prompt):
        raise ZeroDivisionError

    async with serve(broken) as server, AsyncClient(server.url) as client:
        reply = await (await client.session()).ask("Hello")
        assert reply.status == "failed" and "raised ZeroDivisionError" in reply.error
        assert reply.text == ""


# -- no server --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("here", "begin with http:// or https://"),
        ("here:8000", "begin with http:// or https://"),
        ("ws://here:8000", "begin with http:// or https://"),
        ("HTTP://here:8000", "begin with http:// or https://"),
        ("http://", "names no host"),
        ("http://:8000", "names no host"),
        ("http://here:99999", "0-65535"),
        ("http://here:x", "'x'"),
        ("http://[::1", "IPv6"),
    ],
)
def test_what_is_no_address(url, problem):
    with pytest.raises(ValueError, match=problem) as error:
        AsyncClient(url)
    assert repr(url) in str(error.value)


async def test_what_is_no_text():
    for url in (None, 5, b"http://here"):
        with pytest.raises(TypeError, match=f"url is a str, .*; not {type(url).__name__}"):
            AsyncClient(url)
    for session in (5, b"conv_x"):
        with pytest.raises(TypeError, match=f"session_id is a str, .*; not {type(session).__name__}"):
            await AsyncClient().session(session)


async def test_no_server():
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(ClientError, match="chatpager demo") as error:
            await client.session()
        assert (error.value.code, error.value.status) == ("server_unreachable", None)
        with pytest.raises(ClientError, match="chatpager demo") as error:
            await client.connect()
        assert error.value.code == "server_unreachable"


async def test_a_server_that_is_killed_while_it_is_asked():
    async def hang_up(reader, writer):
        await reader.readline()
        writer.transport.abort()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening, AsyncClient(url) as client:
        with pytest.raises(ClientError, match="may have been carried out") as error:
            await client.session()
        assert (error.value.code, error.value.status) == ("connection_lost", None)
        with pytest.raises(ClientError) as error:
            await client.connect()
        assert error.value.code == "server_unreachable", "no answer was asked for"


async def test_another_server():
    async def any_page(request):
        return web.Response(text="<html>", status=200 if request.path.endswith("conversations") else 404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", any_page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with AsyncClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            with pytest.raises(ClientError, match="is no chatpager server") as error:
                await client.session()
            assert error.value.code == "not_chatpager"
            with pytest.raises(ClientError, match="the server answered 404") as error:
                await client.session("conv_x")
            assert error.value.status == 404
            with pytest.raises(ClientError, match="the server answered 404"):
                await client.connect()
    finally:
        await runner.cleanup()


async def test_the_address_s_form():
    for url in ("http://here:1", "http://here:1/", "http://here:1/v1", "http://here:1/v1/"):
        assert AsyncClient(url).url == "http://here:1"


async def test_a_client_is_open_or_says_how_to_open_one(client):
    other = AsyncClient(client.url)
    session = Session(other, (await client.session()).id)
    calls = (other.session, other.sessions, other.connect, session.items, lambda: session.ask("Hello"))
    for call in calls:
        with pytest.raises(UsageError, match="async with AsyncClient"):
            await call()
    async with other:
        await session.items()
        with pytest.raises(UsageError, match="opened once"):
            await other.__aenter__()
    for call in calls:
        with pytest.raises(UsageError, match=r"closed.*make another"):
            await call()
    with pytest.raises(UsageError, match="opened once"):
        await other.__aenter__()
    assert await session._client.__aexit__(None, None, None) is None, "to close it again is nothing"
    assert await Session(client, session.id).history() == [], "nothing was sent"
