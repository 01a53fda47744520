"""Responses in the background: had by their id, whoever leaves."""

import asyncio
import json

import openai
import pytest

from tests.server.test_crash import after_a_crash
from tests.server.test_leaving import a_turn_that_cannot_begin
from tests.serving import GREEDY, eventually

LONG = {"input": "Hello", **GREEDY, "max_output_tokens": 40}


async def test_it_is_told_at_once_and_had_by_its_id(server):
    server.gate.hold()
    told = await server.post("/v1/responses", {**LONG, "background": True})
    made = told.json
    assert (told.status, made["status"], made["background"], made["output"]) == (200, "queued", True, [])
    address = "/v1/responses/" + made["id"]
    assert (await server.get(address)).json["status"] == "queued"
    turn = await server.live_turn()
    server.gate.open()
    await server.turn_ended(turn)
    await eventually(lambda: not server.hub.turns)
    found = (await server.get(address)).json
    assert (found["status"], found["background"]) == ("incomplete", True)
    whole = await server.respond("Hello", max_output_tokens=40)
    assert found["output"][0]["content"] == whole["output"][0]["content"]


async def test_it_is_in_progress_once_it_is_computed(server):
    server.gate.hold(after=3)
    made = (await server.post("/v1/responses", {**LONG, "background": True})).json
    await server.held()
    assert (await server.get("/v1/responses/" + made["id"])).json["status"] == "in_progress"


async def test_it_is_cancelled_by_its_id(server):
    server.gate.hold(after=3)
    made = (await server.post("/v1/responses", {**LONG, "background": True})).json
    await server.held()
    cancelling = asyncio.create_task(server.post(f"/v1/responses/{made['id']}/cancel"))
    await eventually(lambda: not server.hub.engine._commands.empty())
    server.gate.open()
    ended = (await cancelling).json
    assert (ended["id"], ended["status"]) == (made["id"], "cancelled")
    assert (await server.get("/v1/responses/" + made["id"])).json == ended


async def test_a_stream_that_is_left_is_gone_on_with(server):
    server.gate.hold(after=5)
    async with server.events("/v1/responses", {**LONG, "background": True}) as events:
        first = [await anext(events) for _ in range(3)]
    made = first[0][1]["response"]
    assert made["background"]
    server.gate.open()
    async with server.http.get(f"{server.url}/v1/responses/{made['id']}?stream=true&starting_after=2") as rest:
        frames = [json.loads(line[6:]) async for line in rest.content if line.startswith(b"data: ")]
    assert frames[0]["sequence_number"] == 3 and frames[-1]["response"]["status"] == "incomplete"


@pytest.mark.parametrize(("key", "end"), [("Idempotency-Key: k\r\n", "incomplete"), ("", "cancelled")])
async def test_a_client_that_leaves_before_it_is_told_ends_only_what_it_cannot_find_again(server, key, end):
    body = json.dumps({**LONG, "background": True}).encode()
    ended = server.service.metrics._turns.labels("response", end)._value
    others = set(server.runner.server.connections)
    async with a_turn_that_cannot_begin(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await eventually(lambda: server.hub.prompting._thread._work_queue.qsize())
        writer.transport.abort()
        await eventually(lambda: set(server.runner.server.connections) <= others)
    await eventually(lambda: ended.get() == 1)


async def test_a_restart_marks_it_as_any_other(server, chat_model, tmp_path):
    server.gate.hold(after=4)
    made = (await server.post("/v1/responses", {**LONG, "background": True})).json
    await server.held()
    async with after_a_crash(server, chat_model, tmp_path) as restarted:
        found = (await restarted.get("/v1/responses/" + made["id"])).json
        assert (found["status"], found["error"]["code"]) == ("failed", "server_restarted")
        assert found["background"]


async def test_a_key_that_comes_again_gets_what_there_is(server):
    key = {"headers": {"Idempotency-Key": "one"}}
    made = (await server.post("/v1/responses", {**LONG, "background": True}, **key)).json
    await eventually(lambda: not server.hub.turns)
    again = (await server.post("/v1/responses", {**LONG, "background": True}, **key)).json
    assert (again["id"], again["status"]) == (made["id"], "incomplete")


@pytest.mark.parametrize("stored", [None, True])
async def test_what_is_wrong_is_refused_as_ever(server, stored):
    told = await server.post("/v1/responses", {"input": "a", "background": True, "store": stored, "model": "other"})
    assert told.refusal == (404, "model_not_found", "model")
    told = await server.post("/v1/responses", {"input": "a", "background": True, "store": False})
    assert told.refusal == (400, "invalid_request", "background")
    assert not server.hub.turns


async def test_the_openai_package_polls_it(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-") as client:
        made = await client.responses.create(model="default", input="Hello", background=True, max_output_tokens=8)
        assert made.background and made.status in ("queued", "in_progress")
        await eventually(lambda: not server.hub.turns)
        found = await client.responses.retrieve(made.id)
    assert (found.status, found.service_tier) in (("completed", "default"), ("incomplete", "default"))
    assert found.text.format.type == "text" and found.reasoning.effort is None
