"""Going back to an earlier answer, and a summary in place of what is long ago."""

import asyncio

import pytest
from openai.types.conversations import Conversation

from tests.looking import look
from tests.serving import BLOCK, GREEDY

PATH = "/v1/conversations"
LONG = "The quick brown fox jumps over the lazy dog. " * 3


async def talked(server, *inputs, **more):
    """A conversation with a turn for each input; its id and the responses."""
    conversation = await server.conversation()
    return conversation, [await server.respond(text, conversation=conversation, **more) for text in inputs]


async def texts(server, conversation):
    return [item["content"][0]["text"] for item in await server.items(conversation)]


def answer_of(response):
    return response["output"][0]["content"][0]["text"]


def cached(response):
    return response["usage"]["input_tokens_details"]["cached_tokens"]


def full(tokens):
    return tokens // BLOCK * BLOCK


async def held_by(server, conversation):
    """Tokens of the full blocks that the conversation has."""
    return (await server.get(f"{PATH}/{conversation}/cache")).json["tokens"]


async def test_a_conversation_goes_on_from_an_earlier_answer(server):
    conversation, (first, second) = await talked(server, LONG, "Two.")
    answer = await server.post(f"{PATH}/{conversation}/rewind", {"to": first["id"]})
    Conversation.model_validate(answer.json)
    assert answer.json["id"] == conversation
    assert await texts(server, conversation) == [LONG, answer_of(first)]
    assert await held_by(server, conversation) <= full(first["usage"]["total_tokens"] - 1) + BLOCK
    other = await server.respond("Another way.", conversation=conversation)
    past = first["usage"]["total_tokens"] - 1
    assert full(past) <= cached(other) < second["usage"]["total_tokens"]
    assert other["chatpager"]["cache"]["miss_reason"] is None
    assert (await texts(server, conversation))[2:] == ["Another way.", answer_of(other)]
    assert (await server.get(f"/v1/responses/{second['id']}")).json["output"] == second["output"], "it stays stored"
    await server.post(f"{PATH}/{conversation}/rewind", {"to": second["id"]})  # and can be gone back to
    assert await texts(server, conversation) == [LONG, answer_of(first), "Two.", answer_of(second)]


async def test_what_is_left_behind_is_nobodys_at_once_but_for_forks(server):
    async def kept():
        return await look(server.hub.engine, lambda e: sum(block.heads > 0 for block in e.pool.index.values()))

    conversation, (first, _) = await talked(server, LONG, LONG[::-1])
    fork = (await server.post(f"{PATH}/{conversation}/fork")).json["id"]
    before = await kept()
    await server.post(f"{PATH}/{conversation}/rewind", {"to": first["id"]})
    assert await kept() == before, "the fork has them"
    await server.post(f"{PATH}/{fork}/rewind", {"to": first["id"]})
    past = full(first["usage"]["total_tokens"] - 1)
    assert past <= (await kept()) * BLOCK <= past + BLOCK < before * BLOCK, "what closes the answer may be one more"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({}, (400, "invalid_request", "to")),
        ({"to": 3}, (400, "invalid_request", "to")),
        ({"to": "resp_none"}, (404, "response_not_found", None)),
    ],
)
async def test_what_is_nothing_to_go_back_to(server, body, refusal):
    conversation, _ = await talked(server, "Hello")
    before = await texts(server, conversation)
    assert (await server.post(f"{PATH}/{conversation}/rewind", body)).refusal == refusal
    assert await texts(server, conversation) == before


async def test_another_conversations_answer_is_nothing_to_go_back_to(server):
    conversation, _ = await talked(server, "Hello")
    _, (other,) = await talked(server, "Elsewhere")
    answer = await server.post(f"{PATH}/{conversation}/rewind", {"to": other["id"]})
    assert answer.refusal == (404, "response_not_found", None)


async def test_the_past_stays_as_it_is_while_a_turn_runs(server):
    conversation, (first, _) = await talked(server, "Hello", "Two.")
    server.gate.hold()
    running = asyncio.ensure_future(server.respond("Hold", conversation=conversation))
    await server.held()
    for path, body in (("rewind", {"to": first["id"]}), ("compact", {"summary": "We greeted."})):
        answer = await server.post(f"{PATH}/{conversation}/{path}", body)
        assert answer.refusal == (409, "session_busy", None)
    server.gate.open()
    third = await running
    assert (await texts(server, conversation))[4:] == ["Hold", answer_of(third)]


async def test_a_summary_stands_in_place_of_what_is_older(server):
    conversation, responses = await talked(server, LONG, "Two.", "Three.", instructions="Be brief.")
    answer = await server.post(f"{PATH}/{conversation}/compact", {"summary": "It was about a fox.", "keep": 2})
    Conversation.model_validate(answer.json)
    kept = ["Two.", answer_of(responses[1]), "Three.", answer_of(responses[2])]
    assert await texts(server, conversation) == ["It was about a fox.", *kept]
    before = await stored_ids(server, conversation)
    assert len(before[2]) == len(before[4]) == GREEDY["max_output_tokens"], "token for token"
    again = await server.respond("Four.", conversation=conversation, instructions="Be brief.")
    cache = again["chatpager"]["cache"]
    assert (cache["miss_reason"], cache["diverged_at"] > 0) == ("diverged", True)
    assert cache["prompt_tokens"] < responses[2]["usage"]["total_tokens"]
    next_one = await server.respond("Five.", conversation=conversation, instructions="Be brief.")
    assert cached(next_one) >= full(again["usage"]["total_tokens"] - 1)
    assert (await server.get(f"/v1/responses/{responses[0]['id']}")).status == 200


async def stored_ids(server, conversation):
    session = await server.hub.store.session("default", conversation)
    return [message.token_ids for message in await server.hub.store.load_chain("default", session.tip_hash)]


async def test_what_instructs_the_model_stays_and_the_role_is_as_asked(server):
    conversation = await server.conversation(items=[{"role": "system", "content": "Be kind."}])
    first = await server.respond("One.", conversation=conversation)
    body = {"summary": "One was said.", "keep": 0, "role": "assistant"}
    await server.post(f"{PATH}/{conversation}/compact", body)
    items = await server.items(conversation)
    said = [(item["role"], item["content"][0]["text"]) for item in items]
    assert said == [("system", "Be kind."), ("assistant", "One was said.")]
    assert (await server.post(f"{PATH}/{conversation}/rewind", {"to": first["id"]})).status == 200
    assert (await texts(server, conversation))[1] == "One.", "going back undoes it"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "summary"),
        ({"summary": 3}, "summary"),
        ({"summary": " "}, "summary"),
        ({"summary": "a\0"}, "summary"),
        ({"summary": "a", "keep": -1}, "keep"),
        ({"summary": "a", "keep": 1.5}, "keep"),
        ({"summary": "a", "keep": True}, "keep"),
        ({"summary": "a", "keep": 2}, "keep"),
        ({"summary": "a", "role": "tool"}, "role"),
    ],
)
async def test_what_is_no_compaction(server, body, param):
    conversation, _ = await talked(server, "Hello", "Two.")
    before = await texts(server, conversation)
    answer = await server.post(f"{PATH}/{conversation}/compact", body)
    assert answer.refusal == (400, "invalid_request", param)
    assert ("summary: it is empty" in answer.error["message"]) == (body.get("summary") == " ")
    assert await texts(server, conversation) == before


@pytest.mark.parametrize(("path", "body"), [("rewind", {"to": "resp_x"}), ("compact", {"summary": "a"})])
async def test_of_a_conversation_that_is_not_there(server, path, body):
    answer = await server.post(f"{PATH}/conv_none/{path}", body)
    assert answer.refusal == (404, "conversation_not_found", None)


async def test_blocks_that_are_left_behind_leave_the_disk(serve, tmp_path):
    kv = {"kv_dir": str(tmp_path / "kv")}

    async def files(server):
        await look(server.hub.engine, lambda engine: (engine.tiers.work(idle=True), engine.tiers.disk.flush()))
        return len(list((tmp_path / "kv").glob("*/*.kv")))

    async with serve(engine=kv) as server:
        conversation, (first, second) = await talked(server, LONG, LONG[::-1])
        whole = await files(server)
        assert whole == full(second["usage"]["total_tokens"] - 1) // BLOCK
    async with serve(engine=kv) as server:  # where only the disk knows of it
        await server.post(f"{PATH}/{conversation}/rewind", {"to": first["id"]})
        left = await files(server)
        assert full(first["usage"]["total_tokens"] - 1) // BLOCK <= left < whole
        again = await server.respond("Another way.", conversation=conversation)
        assert again["chatpager"]["cache"]["disk_tokens"] >= full(first["usage"]["total_tokens"] - 1)


async def test_a_fork_at_an_answer_that_was_left_claims_nothing_of_the_other_way(server):
    conversation, (first, second) = await talked(server, LONG, "Two.")
    await server.post(f"{PATH}/{conversation}/rewind", {"to": first["id"]})
    await server.respond("Another way.", conversation=conversation)
    fork = (await server.post(f"{PATH}/{conversation}/fork", {"at": second["id"]})).json["id"]
    assert await texts(server, fork) == [LONG, answer_of(first), "Two.", answer_of(second)]
    assert await held_by(server, fork) == 0
    assert (await server.call("PUT", f"{PATH}/{fork}/pin")).refusal == (409, "nothing_cached", None)
    there = await server.respond("On.", conversation=fork)
    assert cached(there) >= full(second["usage"]["total_tokens"] - 1), "it is still there, and now its own"
    assert await held_by(server, fork) == there["usage"]["total_tokens"] - 1
