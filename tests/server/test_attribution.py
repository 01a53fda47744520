"""What a client calls its session is told in the log, and changes nothing else."""

import asyncio

import pytest

from chatpager.server.attribution import HEADERS
from tests.serving import GREEDY


async def called(server, **headers):
    """What the turn that such a call begins is attributed to, and its answer."""
    server.gate.hold(after=1)
    asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hello", **GREEDY}, headers=headers))
    attributed = (await server.live_turn()).client_session
    server.gate.open()
    return attributed, (await asking).json


@pytest.mark.parametrize("header", HEADERS)
async def test_the_headers_that_clients_send(server, header):
    attributed, _ = await called(server, **{header: " agent-7 "})
    assert attributed == "agent-7"


@pytest.mark.parametrize("name", ["", " ", "a" * 129, "s\u00e9ance"])
async def test_a_name_that_cannot_be_shown_is_none(server, name):
    assert (await called(server, **{"x-session-id": name}))[0] is None


async def test_the_first_counts_and_none_changes_what_is_asked(server):
    plain, first = await called(server)
    both, second = await called(server, **{"X-OpenWebUI-Chat-Id": "b", "X-Session-Id": "a"})
    assert (plain, both) == (None, "a")
    assert second["output"][0]["content"] == first["output"][0]["content"]
    assert second["usage"]["input_tokens"] == first["usage"]["input_tokens"]
    assert second["conversation"] is None and second["previous_response_id"] is None


async def test_over_the_websocket(server):
    server.gate.hold(after=1)
    async with server.socket(additional_headers={"session-id": "codex"}) as socket:
        await socket.create("Hello")
        assert (await server.live_turn()).client_session == "codex"
        server.gate.open()
        await socket.rest()
