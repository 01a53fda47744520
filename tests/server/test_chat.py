"""POST /v1/chat/completions: stateless for the client, and warm all the same."""

import asyncio

import pytest
from openai.types.chat import ChatCompletion

from tests.serving import eventually

PATH = "/v1/chat/completions"
EIGHT = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


def user(text):
    return {"role": "user", "content": text}


async def ask(server, messages, **more):
    answer = await server.post(PATH, {"messages": messages, **EIGHT, **more})
    assert answer.status == 200, answer.body
    return answer.json


async def test_an_answer(serve):
    async with serve(lambda prompt: "ok, 你好") as server:
        answer = (await server.post(PATH, {"messages": [user("Hello")], "temprature": 1})).json
    ours = answer.pop("chatpager")
    ChatCompletion.model_validate(answer)
    [choice] = answer["choices"]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": "ok, 你好"}, "stop")
    assert ours["warnings"] == ["unknown field 'temprature' was passed over"]
    assert ours["state"] == "completed" and ours["cache"]["miss_reason"] == "cold"


async def test_the_second_turn_finds_the_first_by_its_words(server):
    messages = [{"role": "system", "content": "Be brief."}, user("The quick brown fox jumps over the lazy dog.")]
    first = await ask(server, messages)
    assert first["choices"][0]["finish_reason"] == "length"
    again = [*messages, first["choices"][0]["message"], user("And then?")]
    second = await ask(server, again)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == first["usage"]["total_tokens"] - 1
    assert second["chatpager"]["cache"]["device_tokens"] == cached
    other = await ask(server, [*messages, {"role": "assistant", "content": "No."}, user("And then?")])
    assert 0 < other["usage"]["prompt_tokens_details"]["cached_tokens"] < cached


async def test_an_answer_that_holds_a_nul_does_not_end_its_conversation(serve):
    async with serve(lambda prompt: "a\0b") as server:
        messages = [user("The quick brown fox jumps over the lazy dog.")]
        first = (await server.post(PATH, {"messages": messages})).json
        said = first["choices"][0]["message"]
        assert said["content"] == "a\0b"
        second = (await server.post(PATH, {"messages": [*messages, said, user("And then?")]})).json
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["total_tokens"] - 1
        blocks = [*messages, {"role": "assistant", "content": [{"type": "text", "text": "a\0b"}]}, user("And then?")]
        assert (await server.post("/v1/messages", {"messages": blocks, "max_tokens": 9})).status == 200
        assert (await server.post(PATH, {"messages": [user("a\0b")]})).status == 400


async def test_what_is_not_stored_is_found_by_no_later_turn(server):
    messages = [user("The quick brown fox jumps over the lazy dog.")]
    first = await ask(server, messages, store=False)
    assert await server.service.store.match_content("default", server_messages(messages)) == []
    await ask(server, [*messages, first["choices"][0]["message"], user("And then?")], store=True)


def server_messages(messages):
    from chatpager.server.input_items import input_messages

    return input_messages(messages, "messages")


async def test_a_completion_is_deleted_with_its_words(server):
    messages = [user("The quick brown fox jumps over the lazy dog.")]
    told = await ask(server, messages)
    assert len(await server.service.store.match_content("default", server_messages(messages))) == 1
    deleted = await server.delete(f"{PATH}/{told['id']}")
    assert deleted.json == {"id": told["id"], "object": "chat.completion.deleted", "deleted": True}
    assert await server.service.store.match_content("default", server_messages(messages)) == []
    assert (await server.delete(f"{PATH}/{told['id']}")).refusal == (404, "response_not_found", None)


async def test_delete_while_it_streams(server):
    server.gate.hold(after=2)
    async with server.events(PATH, {"messages": [user("a")], **EIGHT, "max_tokens": 300}) as events:
        turn = await server.live_turn()
        await server.held()
        deleting = asyncio.create_task(server.delete(f"{PATH}/{turn.id}"))
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        assert (await deleting).json["deleted"] is True
        assert [chunk async for chunk in events]
    assert (await server.delete(f"{PATH}/{turn.id}")).status == 404


async def test_a_completion_and_a_response_are_not_each_other(server):
    completion = (await ask(server, [user("Hello")]))["id"]
    response = (await server.respond("Hello"))["id"]
    missing = (404, "response_not_found", None)
    assert (await server.delete(f"{PATH}/{response}")).refusal == missing
    assert (await server.delete(f"/v1/responses/{completion}")).refusal == missing
    assert (await server.delete(f"{PATH}/chatcmpl_x")).refusal == missing
    follow = await server.post("/v1/responses", {"input": "And then?", "previous_response_id": completion})
    assert follow.refusal == (404, "previous_response_not_found", "previous_response_id")
    assert (await server.delete(f"{PATH}/{completion}")).status == 200
    assert (await server.delete(f"/v1/responses/{response}")).status == 200


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream(serve, include_usage):
    body = {"messages": [user("Hello")]} | ({"stream_options": {"include_usage": True}} if include_usage else {})
    async with (
        serve(lambda prompt: "naïve 你好 😀 fox") as server,
        server.events(PATH, body) as events,
    ):
        chunks = [chunk async for _, chunk in events]
    assert chunks.pop() == "[DONE]"
    usage = chunks.pop() if include_usage else None
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "naïve 你好 😀 fox"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1]["chatpager"]["state"] == "completed"
    assert {chunk.get("usage", "none") for chunk in chunks} == {None if include_usage else "none"}
    if include_usage:
        assert usage["choices"] == [] and usage["usage"]["prompt_tokens_details"] == {
            "cached_tokens": 0, "cache_write_tokens": usage["usage"]["total_tokens"] - 1,
        }  # fmt: skip


async def test_no_client_is_told_of_a_chat_s_turn_so_it_ends_with_its_reader(server):
    server.gate.hold(after=2)
    asking = asyncio.create_task(server.post(PATH, {"messages": [user("a")], **EIGHT, "max_tokens": 300}))
    turn = await server.live_turn()
    await server.held()
    asking.cancel()
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    assert (await server.turn_ended(turn)).status == "cancelled"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({}, (400, "invalid_request", "messages")),
        ({"messages": []}, (400, "invalid_request", "messages")),
        ({"messages": [user("a")], "n": 0}, (400, "invalid_request", "n")),
        ({"messages": [user("a")], "n": 17}, (400, "invalid_request", "n")),
        ({"messages": [user("a")], "n": 129}, (400, "invalid_request", "n")),
        ({"messages": [user("a")], "n": "2"}, (400, "invalid_request", "n")),
        ({"messages": [user("a")], "model": "x"}, (404, "model_not_found", "model")),
        ({"messages": [user("a " * 3000)]}, (400, "context_length_exceeded", "input")),
        (b"[]", (400, "invalid_json", None)),
    ],
)
async def test_refusals(server, body, refusal):
    assert (await server.post(PATH, body)).refusal == refusal


def broken(prompt):
    raise ZeroDivisionError


async def test_a_mistake_of_the_engine_is_an_error(serve):
    async with serve(broken) as server:
        answer = await server.post(PATH, {"messages": [user("a")]})
        assert answer.refusal == (500, "engine_step_failed", None)
        async with server.events(PATH, {"messages": [user("a")]}) as events:
            *chunks, (_, last) = [event async for event in events]
    assert [chunk["choices"][0]["delta"] for _, chunk in chunks] == [{"role": "assistant", "content": ""}]
    assert last["error"]["code"] == "engine_step_failed"


async def test_a_request_that_fits_no_cache(serve):
    async with serve(lambda prompt: "ok", blocks=8) as server:
        answer = await server.post(PATH, {"messages": [user("word " * 60)]})
        assert answer.refusal == (507, "kv_capacity_exceeded", None)


async def test_an_answer_that_the_shutdown_interrupts_is_an_error(serve):
    async with serve(drain_seconds=0) as server:
        server.gate.hold(after=2)
        asking = asyncio.create_task(server.post(PATH, {"messages": [user("a")], **EIGHT, "max_tokens": 300}))
        await server.live_turn()
        await server.held()
        closing = asyncio.ensure_future(server.close())
        await eventually(lambda: server.service.draining)
        server.gate.hold(after=3)
        answer = await asking
        await closing
    assert answer.refusal == (503, "server_restarted", None)
