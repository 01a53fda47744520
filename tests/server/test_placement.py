"""Instructions at the head, at the tail, or in the conversation: what agents who take turns share."""

import pytest

from chatpager.server.requests import response_request
from tests.server.reading import SERVED, chat, refused, respond
from tests.serving import BLOCK

WRITER, CRITIC = "You are the writer. Write plainly.", "You are the critic. Name one weakness."


async def pipeline(server, placement):
    """Two agents, one after the other, in one conversation; what each response says."""
    conversation = await server.conversation()
    placed = {"chatpager": {"instructions": placement}, "conversation": conversation}
    first = await server.respond("A story about rain, please.", instructions=WRITER, **placed)
    second = await server.respond([], instructions=CRITIC, **placed)
    return conversation, first, second


def used(response):
    usage = response["usage"]
    return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], usage["output_tokens"]


def said(items):
    return [(item["role"], item["content"][0]["text"]) for item in items]


async def test_appended_instructions_leave_the_next_agent_all_that_was_computed(server):
    conversation, first, second = await pipeline(server, "append")
    prompt, _, answer = used(first)
    assert used(second)[1] == prompt + answer - 1  # the last token of an answer is never computed
    roles = said(await server.items(conversation))
    assert [role for role, _ in roles] == ["user", "developer", "assistant", "developer", "assistant"]
    assert (roles[1][1], roles[3][1]) == (WRITER, CRITIC)
    assert second["instructions"] == CRITIC


async def test_instructions_at_the_tail_are_gone_with_the_next_turn(server):
    conversation, first, second = await pipeline(server, "tail")
    assert [role for role, _ in said(await server.items(conversation))] == ["user", "assistant", "assistant"]
    explained = (await server.get(f"/v1/cache/explain?first={first['id']}&second={second['id']}")).json
    before_the_tail = explained["common_tokens"]
    assert used(second)[1] == before_the_tail > BLOCK
    receipt = second["chatpager"]["cache"]
    assert (receipt["miss_reason"], receipt["diverged_at"]) == ("diverged", before_the_tail)


async def test_instructions_at_the_head_part_agents_at_once(server):
    _, first, second = await pipeline(server, "head")
    explained = (await server.get(f"/v1/cache/explain?first={first['id']}&second={second['id']}")).json
    assert (explained["diverged"]["message"], explained["diverged"]["role"]) == (0, "system")
    assert used(second)[1] == explained["common_tokens"] < 2 * BLOCK, "what the template begins with"


async def test_who_sends_the_whole_conversation_finds_the_answers_that_were_generated(server):
    first = await server.respond("A story about rain, please.")
    sent = [{"role": "user", "content": "A story about rain, please."}, *first["output"]]
    second = await server.respond([*sent, {"role": "user", "content": "Go on."}])
    prompt, _, answer = used(first)
    assert used(second)[1] == prompt + answer - 1


async def test_the_input_of_who_sends_the_whole_is_all_that_was_sent(server):
    first = await server.respond("A story about rain, please.")
    sent = [{"role": "user", "content": "A story about rain, please."}, *first["output"]]
    for last in ("Go on.", "Go on."):
        told = await server.respond([*sent, {"role": "user", "content": last}])
        items = (await server.get(f"/v1/responses/{told['id']}/input_items?order=asc")).json["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"]
    alone = (await server.get(f"/v1/responses/{first['id']}/input_items")).json["data"]
    assert [item["role"] for item in alone] == ["user"]


def test_of_a_draft_nothing_is_appended_yet():
    body = {"input": "Hel", "instructions": CRITIC, "chatpager": {"instructions": "append"}}
    turn = response_request(body, SERVED, "t", draft=True)
    assert (turn.tail, len(turn.messages)) == (CRITIC, 1)


def test_chat_completions_have_no_instructions_to_place():
    assert refused(chat, chatpager={"instructions": "tail"}) == "chatpager"


def test_what_is_no_placement_is_refused():
    assert refused(respond, input="a", chatpager={"instructions": "middle"}) == "chatpager.instructions"


@pytest.mark.parametrize("placement", ["head", "tail", "append"])
def test_without_instructions_nothing_is_placed(placement):
    turn = respond(input="a", chatpager={"instructions": placement})
    assert (turn.instructions, turn.tail, len(turn.messages)) == (None, None, 1)
    assert "instructions_placed" not in turn.parameters
