"""``generate: false``: a prompt is computed before anybody asks for its answer."""

import pytest

from tests.looking import look
from tests.serving import GREEDY

LONG = "The quick brown fox jumps over the lazy dog. " * 3
PREPARE = {"generate": False, **GREEDY}


async def prepared(server, text=LONG, **body):
    return await server.respond(text, **{**PREPARE, **body})


async def test_it_gives_no_answer_and_is_complete(server):
    response = await prepared(server)
    assert (response["status"], response["output"], response["error"]) == ("completed", [], None)
    assert response["usage"]["output_tokens"] == 0
    receipt = response["chatpager"]["cache"]
    assert receipt["computed_tokens"] == receipt["prompt_tokens"] == response["usage"]["input_tokens"]
    assert response["usage"]["input_tokens_details"]["cache_write_tokens"] == receipt["prompt_tokens"]


async def test_a_stream_of_it_has_no_text(server):
    async with server.events("/v1/responses", {"input": LONG, **PREPARE}) as events:
        kinds = [kind async for kind, _ in events]
    assert [kind for kind in kinds if kind != "chatpager.prefill"] == [
        "response.created", "response.in_progress", "response.completed",
    ]  # fmt: skip


@pytest.mark.parametrize("follow", ["previous_response_id", "conversation"])
async def test_who_goes_on_from_there_finds_it_computed(server, follow):
    there = {"conversation": await server.conversation()} if follow == "conversation" else {}
    first = await prepared(server, **there)
    there = there or {follow: first["id"]}
    second = await server.respond("And then?", **there, **GREEDY)
    receipt = second["chatpager"]["cache"]
    assert receipt["device_tokens"] == first["usage"]["input_tokens"]
    assert (receipt["miss_reason"], receipt["attainable_tokens"]) == (None, receipt["device_tokens"])
    asked = await server.get(f"/v1/responses/{second['id']}/input_items?order=asc")
    assert [item["content"][0]["text"] for item in asked.json["data"]][-1] == "And then?"


async def test_the_answer_is_asked_for_without_saying_more(server):
    first = await prepared(server)
    second = await server.respond([], previous_response_id=first["id"], **GREEDY)
    alone = await server.respond(LONG, **GREEDY)
    assert second["output"][0]["content"] == alone["output"][0]["content"]
    assert second["chatpager"]["cache"]["device_tokens"] == first["usage"]["input_tokens"]


async def test_a_conversation_holds_what_was_said_and_no_answer(server):
    conversation = await server.conversation()
    await prepared(server, conversation=conversation)
    items = (await server.get(f"/v1/conversations/{conversation}/items")).json["data"]
    assert [item["role"] for item in items] == ["user"]
    kept = (await server.get(f"/v1/conversations/{conversation}/cache")).json
    assert kept["device_tokens"] > 0


async def test_chat_completions_prepare_by_the_option(server):
    body = {"messages": [{"role": "user", "content": LONG}], **GREEDY}
    answer = (await server.post("/v1/chat/completions", {**body, "prompt_cache_options": {"prewarm": True}})).json
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    usage = (await server.post("/v1/chat/completions", body)).json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"]


async def test_it_is_compared_as_it_was_asked(server):
    first = await prepared(server)
    second = await server.respond("And then?", previous_response_id=first["id"], **GREEDY)
    said = (await server.get(f"/v1/cache/explain?first={first['id']}&second={second['id']}")).json
    assert said["common_tokens"] == first["usage"]["input_tokens"]


async def test_there_is_something_to_prepare(server):
    answer = await server.post("/v1/responses", {"instructions": "Be kind.", **PREPARE})
    assert answer.refusal == (400, "invalid_request", "input")


async def heads(server):
    """Blocks by whose they are."""
    return await look(
        server.service.hub.engine,
        lambda engine: {owner.partition("\0")[2]: len(head.proofs) for owner, head in engine.leases.heads.items()},
    )


async def test_a_cancelled_one_prepared_nothing(serve):
    async with serve(step=16) as server:  # it takes several steps, and is cancelled in the first
        first = await server.respond(LONG, **GREEDY)
        before = await heads(server)
        server.gate.hold()
        there = {"previous_response_id": first["id"], **PREPARE}
        async with server.events("/v1/responses", {"input": LONG[::-1], **there}) as events:
            turn = await server.live_turn()
            server.service.hub.cancel(turn.request.tenant, turn.id)
            server.gate.open()
            last = [data async for _, data in events][-1]
        assert (last["response"]["status"], last["response"]["output"]) == ("cancelled", [])
        assert (await heads(server)).keys() == before.keys()
        await server.respond("And then?", previous_response_id=first["id"], **GREEDY)
        assert (await heads(server)).keys() == before.keys(), "who goes on from the first has its head"


async def test_deleting_it_leaves_the_conversation_that_went_on_its_head(server):
    first = await prepared(server)
    await server.respond("And then?", previous_response_id=first["id"], **GREEDY)
    before = await heads(server)
    assert (await server.delete(f"/v1/responses/{first['id']}")).status == 200
    assert await heads(server) == before != {}


async def test_deleting_the_end_of_a_conversation_lets_its_head_go(server):
    first = await server.respond(LONG, **GREEDY)
    last = await server.respond("And then? " * 5, previous_response_id=first["id"], **PREPARE)
    assert (await heads(server)).keys() == {first["id"]}
    await server.delete(f"/v1/responses/{last['id']}")
    assert await heads(server) == {}


async def test_no_answer_is_shown_while_it_is_computed(serve):
    async with serve(step=16) as server:
        conversation = await server.conversation()
        server.gate.hold()
        async with server.events("/v1/responses", {"input": LONG, "conversation": conversation, **PREPARE}) as events:
            await server.live_turn()
            items = (await server.get(f"/v1/conversations/{conversation}/items")).json["data"]
            server.gate.open()
            assert [data async for _, data in events]
    assert [item["role"] for item in items] == ["user"]


async def test_a_conversation_can_be_forked_where_it_was_prepared(server):
    conversation = await server.conversation()
    first = await prepared(server, conversation=conversation)
    child = (await server.post(f"/v1/conversations/{conversation}/fork", {"at": first["id"]})).json["id"]
    said = (await server.get(f"/v1/cache/explain?first={child}&second={first['id']}")).json
    assert said["common_tokens"] == said["first_tokens"] == first["usage"]["input_tokens"]
    receipt = (await server.respond("And then?", conversation=child, **GREEDY))["chatpager"]["cache"]
    assert receipt["device_tokens"] == first["usage"]["input_tokens"]
