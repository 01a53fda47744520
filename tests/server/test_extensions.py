"""The ``chatpager`` object of a request, on every wire."""

import math

import pytest

from chatpager.sessions.heads import owner_of
from tests.server.test_leaving import left_http, settled
from tests.server.test_tenants import bearer
from tests.serving import GREEDY

LONG = "The quick brown fox jumps over the lazy dog. " * 3
HOUR = 3600.0


async def chat(server, text, **body):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    limit = {"max_tokens": GREEDY["max_output_tokens"], "temperature": 0, "ignore_eos": True}
    answer = await server.post("/v1/chat/completions", {"messages": messages, **limit, **body})
    assert answer.status == 200, answer.body
    return answer.json


# -- on_disconnect ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "stream", "status"),
    [("continue", False, "incomplete"), ("continue", True, "incomplete"), ("cancel", True, "cancelled")],
)
async def test_a_reader_over_http_that_leaves(server, wish, stream, status):
    assert await left_http(server, stream=stream, chatpager={"on_disconnect": wish}) == status


async def test_a_conversation_s_turn_can_be_one_that_ends_with_its_reader(server):
    conversation = await server.conversation()
    assert await left_http(server, conversation=conversation, chatpager={"on_disconnect": "cancel"}) == "cancelled"


async def test_a_socket_s_turn_can_be_one_that_ends_with_its_reader(server):
    server.gate.hold(after=3)
    async with server.socket() as socket:
        await socket.create("Hello", max_output_tokens=40, chatpager={"on_disconnect": "cancel"})
        turn = await server.live_turn()
        await server.held()
    assert await settled(server, turn) == "cancelled"


# -- pin --------------------------------------------------------------------------------------------------------------


async def leases(server, conversation):
    return (await server.get(f"/v1/conversations/{conversation}/cache")).json["leases"]


@pytest.mark.parametrize("scope", ["session", "prefix"])
async def test_a_pin_holds_the_conversation_or_what_this_turn_asked(server, scope):
    conversation = await server.conversation()
    pin = {"ttl": HOUR, "scope": scope}
    first = await server.respond(LONG, conversation=conversation, chatpager={"pin": pin})
    second = await server.respond("And then?", conversation=conversation)
    [hard] = [lease for lease in await leases(server, conversation) if lease["strength"] == "hard"]
    assert HOUR - 60 < hard["seconds_left"] <= HOUR
    whole, asked = second["usage"]["total_tokens"] - 1, first["usage"]["input_tokens"]
    assert hard["tokens"] == whole if scope == "session" else asked <= hard["tokens"] < asked + 8


async def test_a_chat_s_prefix_is_pinned_too(server):
    await chat(server, LONG, chatpager={"pin": {"ttl": HOUR}})
    [(owner, pin)] = server.hub.keeper._pins.items()
    assert [span.tokens for span in pin.spans] == [math.inf]
    assert owner.startswith(owner_of("default", "")) or "\0" in owner


# -- session_title ----------------------------------------------------------------------------------------------------


async def test_a_title_names_a_conversation_and_another_renames_it(server):
    conversation = await server.conversation()
    for title in ("A story", "Another story"):
        await server.respond("Hello", conversation=conversation, chatpager={"session_title": title})
        assert (await server.get(f"/v1/conversations/{conversation}")).json["chatpager"]["title"] == title
    await server.respond("And then?", conversation=conversation)
    assert (await server.get(f"/v1/conversations/{conversation}")).json["chatpager"]["title"] == "Another story"


# -- explain ----------------------------------------------------------------------------------------------------------


def broken(answer):
    return answer["chatpager"]["cache"]["break"]


async def test_nothing_is_explained_that_nobody_asked_for(server):
    assert "break" not in (await server.respond(LONG))["chatpager"]["cache"]


async def test_a_turn_that_goes_on_breaks_nowhere(server):
    first = await server.respond(LONG, chatpager={"explain": True})
    assert broken(first) is None  # there was no turn before
    second = await server.respond("Two.", previous_response_id=first["id"], chatpager={"explain": True})
    assert broken(second) is None


async def test_other_instructions_are_named(server):
    """As the second agent of a pipeline has them: it goes on with the conversation, and shares nothing of it."""
    first = await server.respond(LONG, instructions="Be brief.")
    asked = {"previous_response_id": first["id"], "instructions": "Be long.", "chatpager": {"explain": True}}
    second = await server.respond("Two.", **asked)
    told = broken(second)
    assert told["token_index"] == second["chatpager"]["cache"]["diverged_at"]
    assert (told["message_index"], told["role"], told["response_id"]) == (0, "system", first["id"])
    assert told["expected"].strip().startswith("brief") and told["got"].strip().startswith("long")
    assert (await server.get(f"/v1/responses/{second['id']}")).json == second


async def test_without_a_turn_before_it_is_the_tenant_s_last_one(server):
    first = await chat(server, LONG + "Red.")
    second = await chat(server, LONG + "Blue.", chatpager={"explain": True})
    told = broken(second)
    assert (told["message_index"], told["role"], told["response_id"]) == (1, "user", first["id"])
    assert told["got"].strip()[0] == "B"
    assert told["expected"] is None, "that conversation may be deleted, and this answer is not"


async def test_or_the_one_that_the_request_names(server):
    first = await server.respond(LONG + "Red.")
    await server.respond("Something else.")
    options = {"comparison_response_id": first["id"]}
    second = await server.respond(LONG + "Blue.", prompt_cache_options=options, chatpager={"explain": True})
    told = broken(second)
    assert told["response_id"] == first["id"]
    assert (told["expected"].strip()[0], told["got"].strip()[0]) == ("R", "B")
    none = await server.respond(
        LONG, prompt_cache_options={"comparison_response_id": "resp_none"}, chatpager={"explain": True}
    )
    assert broken(none) is None


async def test_an_answer_that_comes_back_changed_is_named(server):
    first = await server.respond(LONG)
    said = first["output"][0]["content"][0]["text"]
    roles = ("user", "assistant", "user")
    sent = [{"role": role, "content": text} for role, text in zip(roles, (LONG, "Q" + said, "?"), strict=True)]
    told = broken(await server.respond(sent, chatpager={"explain": True}))
    assert (told["response_id"], told["message_index"], told["role"]) == (first["id"], 1, "assistant")
    assert told["expected"] is None and told["got"].startswith("Q")


async def test_it_tells_no_other_tenant_s_text(server):
    ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
    first = await ann.respond(LONG + "Red.")
    asked = {"chatpager": {"explain": True}}
    assert broken(await bob.respond(LONG + "Blue.", **asked)) is None
    options = {"comparison_response_id": first["id"]}
    assert broken(await bob.respond(LONG + "Green.", prompt_cache_options=options, **asked)) is None
    assert broken(await ann.respond(LONG + "Blue.", **asked))["response_id"] == first["id"]
