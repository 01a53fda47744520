"""Why one prompt could not use what another left in the cache."""

import pytest
from openai.types.responses import Response

from tests.serving import GREEDY

LONG = "The quick brown fox jumps over the lazy dog. " * 3


async def explained(server, first, second):
    return (await server.get(f"/v1/cache/explain?first={first}&second={second}")).json


async def diagnosed(server, text, earlier, **body):
    options = {"comparison_response_id": earlier}
    response = await server.respond(text, prompt_cache_options=options, **GREEDY, **body)
    Response.model_validate(response)
    return response, response["prompt_cache_diagnostics"]


async def test_a_turn_that_goes_on_has_all_of_the_turn_before(server):
    first = await server.respond(LONG, **GREEDY)
    second, told = await diagnosed(server, "Two.", first["id"], previous_response_id=first["id"])
    assert told == {"type": "cache_hit"}
    stored = (await server.get(f"/v1/responses/{second['id']}")).json
    assert stored["prompt_cache_diagnostics"] == told
    found = await explained(server, first["id"], second["id"])
    assert found["diverged"] is None
    assert found["common_tokens"] == found["first_tokens"] == first["usage"]["input_tokens"]
    assert found["second_tokens"] == second["usage"]["input_tokens"]


async def test_an_input_that_changed_says_where(server):
    first = await server.respond(LONG + "Red.", instructions="Be brief.", **GREEDY)
    second, told = await diagnosed(server, LONG + "Blue.", first["id"], instructions="Be brief.")
    found = await explained(server, first["id"], second["id"])
    common = found["common_tokens"]
    assert told == {
        "type": "cache_miss",
        "reason": "input_changed",
        "cache_missed_tokens": second["usage"]["input_tokens"] - common,
        "comparison_reusable_tokens": common,
    }
    assert found["reusable_tokens"] == common == second["usage"]["input_tokens_details"]["cached_tokens"]
    parted = found["diverged"]
    assert (parted["token"], parted["message"], parted["role"]) == (common, 1, "user")
    assert (parted["first"].strip()[0], parted["second"].strip()[0]) == ("R", "B")


async def test_other_instructions_part_in_the_first_message(server):
    ids = [(await server.respond(LONG, instructions=text, **GREEDY))["id"] for text in ("Be brief.", "Be long.")]
    parted = (await explained(server, *ids))["diverged"]
    assert (parted["message"], parted["role"]) == (0, "system")


async def test_what_was_evicted_is_no_change_of_the_input(serve):
    async with serve(blocks=40, length=250) as server:
        first = await server.respond(LONG + LONG[:60], **GREEDY)
        await server.respond("x" * 225, store=False, **GREEDY)
        second, told = await diagnosed(server, "Two.", first["id"], previous_response_id=first["id"])
        assert second["chatpager"]["cache"]["miss_reason"] == "evicted"
        assert told == {"type": "unavailable"}


async def test_a_response_that_is_not_there(server):
    _, told = await diagnosed(server, "Hello", "resp_none")
    assert told == {"type": "comparison_response_not_found"}
    assert (await server.respond("Hello", **GREEDY))["prompt_cache_diagnostics"] is None


async def test_conversations_stand_for_their_last_responses(server):
    one, two = [await server.conversation() for _ in range(2)]
    first = await server.respond(LONG, conversation=one, **GREEDY)
    await server.respond(LONG, conversation=two, **GREEDY)
    second = await server.respond("Two.", conversation=two, **GREEDY)
    found = await explained(server, one, two)
    assert (found["first"], found["second"]) == (first["id"], second["id"])


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("first=resp_1", (400, "invalid_request", "first")),
        ("first=resp_1&second=resp_2", (404, "response_not_found", None)),
        ("first=conv_1&second=resp_2", (404, "conversation_not_found", None)),
        ("first=%00&second=resp_2", (400, "invalid_request", "first")),
    ],
)
async def test_what_cannot_be_explained(server, query, refusal):
    assert (await server.get(f"/v1/cache/explain?{query}")).refusal == refusal


async def test_a_conversation_without_a_turn_has_no_prompt(server):
    conversation = await server.conversation()
    answer = await server.get(f"/v1/cache/explain?first={conversation}&second={conversation}")
    assert answer.refusal == (404, "response_not_found", None)
