"""POST /v1/conversations/{id}/hint: whoever runs the tools says that a conversation waits for one."""

import pytest

from chatpager.client import AsyncClient
from tests.serving import GREEDY

LONG = "The quick brown fox jumps over the lazy dog. " * 3


async def talked(server):
    conversation = await server.conversation()
    response = await server.respond(LONG, conversation=conversation)
    return conversation, response["usage"]["total_tokens"] - 1


async def hint(server, conversation, **body):
    answer = await server.post(f"/v1/conversations/{conversation}/hint", body)
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_conversation_is_kept_for_as_long_as_it_says(server):
    conversation, full = await talked(server)
    granted = await hint(server, conversation, eta=120)
    assert 60 < granted.pop("expires_in") <= 120
    assert granted == {
        "object": "conversation.hint", "id": conversation, "status": "renewed", "strength": "soft", "tokens": full,
        "reason": "told to wait",
    }  # fmt: skip
    [lease] = (await server.get(f"/v1/conversations/{conversation}/cache")).json["leases"]
    assert lease["reason"] == "told to wait" and 60 < lease["seconds_left"] <= 120


async def test_no_hint_is_believed_for_longer_than_ten_minutes(server):
    conversation, _ = await talked(server)
    assert 590 < (await hint(server, conversation, eta=10**9))["expires_in"] <= 600


async def test_how_long_a_tool_takes_is_learned_from_the_turn_that_comes_after(server):
    now = [1000.0]
    server.hub.tool_waits._clock = lambda: now[0]
    conversation, _ = await talked(server)
    assert 50 < (await hint(server, conversation, tool="search"))["expires_in"] <= 60
    now[0] += 100
    await server.respond("And?", conversation=conversation)
    now[0] += 1000
    await server.respond("And then?", conversation=conversation)
    other, _ = await talked(server)
    assert 60 < (await hint(server, other, tool="search", eta=120))["expires_in"] <= 120
    granted = await hint(server, other, tool="search")
    assert granted["reason"] == "waits for the tool search"
    assert 215 < granted["expires_in"] < 233, "four of five gaps that are like the one of 100 s"


async def test_of_a_conversation_that_has_not_begun_there_is_nothing_to_keep(server):
    missing = await hint(server, await server.conversation(), tool="search")
    assert (missing["status"], missing["tokens"], missing["expires_in"]) == ("missing", 0, 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "tool"),
        ({"tool": ""}, "tool"),
        ({"tool": 3}, "tool"),
        ({"tool": "a\0"}, "tool"),
        ({"tool": "\x1b[31mred"}, "tool"),
        ({"tool": "x" * 65}, "tool"),
        ({"eta": 0}, "eta"),
        ({"eta": "soon"}, "eta"),
        ({"tool": "search", "eta": True}, "eta"),
    ],
)
async def test_what_is_no_hint(server, body, param):
    conversation = await server.conversation()
    answer = await server.post(f"/v1/conversations/{conversation}/hint", body)
    assert answer.refusal == (400, "invalid_request", param)


async def test_a_conversation_that_is_not_there(server):
    answer = await server.post("/v1/conversations/conv_none/hint", {"eta": 1})
    assert answer.refusal == (404, "conversation_not_found", None)


async def test_from_python(server):
    async with AsyncClient(server.url) as client:
        session = await client.session()
        await session.ask(LONG, **GREEDY)
        assert 290 < (await session.hint(eta=300))["expires_in"] <= 300
        assert (await session.hint("search"))["status"] == "renewed"
